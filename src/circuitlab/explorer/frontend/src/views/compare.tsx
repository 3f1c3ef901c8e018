/** Two tasks, methods or models, linked: one map beside the other, and what they share. */
import { useMemo } from "preact/hooks";
import { sameShape, scoreOptions } from "../data/choices.ts";
import { overlapsOf, strongest } from "../data/compare.ts";
import { column, scoreLabel, type Column } from "../data/metrics.ts";
import { readHead } from "../data/nodes.ts";
import type { Model, Score } from "../data/schema.ts";
import { beside, lines, stack } from "../scene/scene.ts";
import { useExplorer } from "../state/store.ts";
import { Absent, Icon, Select } from "../ui/controls.tsx";
import { useWidth } from "../ui/figure.tsx";
import { Panel, type Rows } from "../ui/panel.tsx";
import { OverlapFacts, AllPairs } from "./overlap.tsx";
import { geometry, gridScene, type Marked } from "./grid-scene.ts";
import { cellOf, Grid } from "./grid.tsx";
import { togglePin } from "./map.tsx";
import { plotOf, scatterScene } from "./scatter-scene.ts";
import { Scatter } from "./scatter.tsx";
import { TransferFacts } from "./transfer.tsx";
import { ScoreBadges } from "./verdicts.tsx";

export function CompareView() {
  const { payload, state, set, colours } = useExplorer();
  const [box, width] = useWidth<HTMLDivElement>(900);
  const a = payload.scores.find((one) => one.id === state.a),
    b = payload.scores.find((one) => one.id === state.b);
  const model = payload.models.find((one) => one.id === a?.model) ?? payload.models[0];
  const overlaps = a && b ? overlapsOf(payload, a.id, b.id) : [];
  const overlap = overlaps.find((one) => one.k === state.k) ?? overlaps[0];
  const k = overlap?.k ?? (state.k > 0 ? state.k : 20);
  const tops = useMemo(
    () => ({ a: a ? strongest(payload, model, a, k) : [], b: b ? strongest(payload, model, b, k) : [] }),
    [payload, model, a, b, k],
  );
  const shared = useMemo(() => overlap?.shared ?? tops.a.filter((name) => tops.b.includes(name)), [overlap, tops]);
  const options = scoreOptions(payload);
  const choose = (
    <div class="clx-row clx-controls">
      <Select label="A" value={state.a} options={options} onChange={(id) => set({ a: id })} />
      <button type="button" class="clx-icon clx-swap" aria-label="Swap A and B" onClick={() => set({ a: state.b, b: state.a })}>
        <Icon name="swap" />
      </button>
      <Select label="B" value={state.b} options={options} onChange={(id) => set({ b: id })} />
      {overlaps.length > 1 ? (
        <Select
          label="Strongest heads"
          value={String(k)}
          options={overlaps.map((one) => ({ value: String(one.k), label: `${one.k}` }))}
          onChange={(value) => set({ k: Number(value) })}
        />
      ) : (
        overlaps.length === 0 && (
          <Select
            label="Strongest heads"
            value={String(k)}
            options={[5, 10, 20, 50].map((n) => ({ value: String(n), label: `${n}` }))}
            onChange={(value) => set({ k: Number(value) })}
          />
        )
      )}
    </div>
  );
  const left = a && column(payload, model, `score:${a.id}`),
    right = b && column(payload, model, `score:${b.id}`);
  if (!a || !b || a.id === b.id || !left || !right || !sameShape(payload, model, b)) {
    const why =
      !a || !b
        ? (payload.absent.scores ?? "This page has fewer than two sets of scores.")
        : a.id === b.id
          ? "A and B are the same scores: choose two."
          : "The two models have different numbers of layers or heads: their maps cannot be laid over each other.";
    return (
      <Panel name="compare" title="Compare" scene={() => lines("Compare", [why], colours.ink)} rows={() => []} class="clx-wide">
        {choose}
        <Absent reason={why} />
      </Panel>
    );
  }
  const half = width > 760 ? (width - 48) / 2 : width;
  const grid = geometry(model, half, false, 16);
  const marks = (own: string[]): Marked => ({
    selected: cellOf(state.node),
    outlined: own.map((name) => cellOf(name)!),
    shared: shared.flatMap((name) => {
      const cell = cellOf(name);
      return cell && !cell.mlp ? [cell] : [];
    }),
  });
  const scene = () =>
    stack("Compare", [
      lines("Compare", [`A: ${left.label}`, `B: ${right.label}`, `${shared.length} of the ${k} strongest heads shared`], colours.ink, 14),
      beside("Maps", [gridScene(grid, left, colours, marks(tops.a)), gridScene(grid, right, colours, marks(tops.b))]),
    ]);
  return (
    <>
      <Panel
        name="compare"
        title="Compare"
        note="Outlined: the strongest heads of each. Bold: shared by both."
        scene={scene}
        rows={() => compareRows(model, left, right, tops, shared)}
        python={() => overlap?.python ?? comparePython(a, b)}
        class="clx-wide"
      >
        {choose}
        <OverlapFacts a={a} b={b} k={k} overlap={overlap} shared={shared} />
        <div ref={box} class="clx-two">
          {(
            [
              [a, left, tops.a, "A"],
              [b, right, tops.b, "B"],
            ] as const
          ).map(([score, col, own, letter]) => (
            <div key={letter}>
              <h3>
                {letter}: {scoreLabel(payload, score)}
              </h3>
              <ScoreBadges score={score} />
              <Side model={model} score={score} column={col} width={half} own={own} marked={marks(own)} letter={letter} />
            </div>
          ))}
        </div>
      </Panel>
      <div class="clx-columns">
        <Agreement left={left} right={right} model={model} />
        <TransferFacts a={a} b={b} />
      </div>
      <AllPairs />
    </>
  );
}

function Side({
  model,
  score,
  column: col,
  width,
  own,
  marked,
  letter,
}: {
  model: Model;
  score: Score;
  column: Column;
  width: number;
  own: string[];
  marked: Marked;
  letter: string;
}) {
  const { state, set } = useExplorer();
  const grid = useMemo(() => geometry(model, width, false, 16), [model, width]);
  const marks = useMemo(() => marked, [state.node, own, marked.shared?.length, col]);
  return (
    <Grid
      model={model}
      column={col}
      geometry={grid}
      marked={marks}
      label={`${letter}: ${col.label}. Arrow keys move, Enter chooses a head.`}
      onPick={(node) => set({ node, model: score.model, task: score.task ?? "", method: score.method })}
      onPin={(name) => set({ pins: togglePin(state.pins, name) })}
    />
  );
}

function Agreement({ left, right, model }: { left: Column; right: Column; model: Model }) {
  const { colours, state, set } = useExplorer();
  const [box, width] = useWidth<HTMLDivElement>(480);
  const height = Math.max(300, Math.min(420, width * 0.8));
  const scene = () =>
    scatterScene(plotOf(left, right, width, height), left, right, colours, { selected: -1, pinned: [], inside: null, hover: -1 });
  const rows = (): Rows => [
    ["node", left.label, right.label],
    ...Array.from(left.mean, (value, i): Rows[number] => [`a${Math.floor(i / model.n_heads)}.h${i % model.n_heads}`, value, right.mean[i]]),
  ];
  return (
    <Panel name="agreement" title="B against A" scene={scene} rows={rows} python={() => comparePython(left.score!, right.score!)}>
      <div ref={box}>
        <Scatter
          x={left}
          y={right}
          width={width}
          height={height}
          brush={state.brush}
          onBrush={(brush) => set({ brush })}
          onPick={(node) => set({ node })}
        />
      </div>
    </Panel>
  );
}

const comparePython = (a: Score, b: Score): string => `# A\n${a.python}\n\n# B\n${b.python}`;

function compareRows(model: Model, left: Column, right: Column, tops: { a: string[]; b: string[] }, shared: string[]): Rows {
  const rows: Rows = [["node", "A", "A low", "A high", "B", "B low", "B high", "strongest of A", "strongest of B", "shared"]];
  for (let i = 0; i < left.mean.length; i++) {
    const name = `a${Math.floor(i / model.n_heads)}.h${i % model.n_heads}`;
    if (readHead(name))
      rows.push([
        name,
        left.mean[i],
        left.low?.[i],
        left.high?.[i],
        right.mean[i],
        right.low?.[i],
        right.high?.[i],
        tops.a.includes(name),
        tops.b.includes(name),
        shared.includes(name),
      ]);
  }
  return rows;
}
