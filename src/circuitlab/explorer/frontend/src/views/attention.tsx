/** Attention of the chosen head on the chosen pair: on the tokens, and as a matrix. */
import { useMemo, useState } from "preact/hooks";
import { pairsWithAttention } from "../data/attention.ts";
import { readHead } from "../data/nodes.ts";
import type { Pair } from "../data/schema.ts";
import { sidesOf, tokensOf, whysOf, type Sides, type Wanted } from "../data/sides.ts";
import { attentionPython } from "../data/snippets.ts";
import { taskTitle } from "../data/metrics.ts";
import { lines, stack } from "../scene/scene.ts";
import type { Side } from "../state/state.ts";
import { useExplorer } from "../state/store.ts";
import { Absent, Check, Icon, Segmented, Select } from "../ui/controls.tsx";
import { CanvasFigure, useWidth } from "../ui/figure.tsx";
import { tokenText } from "../ui/format.ts";
import { Panel, type Rows } from "../ui/panel.tsx";
import { matrixAt, matrixLayout, matrixScene } from "./matrix.ts";
import { Readout } from "./readout.tsx";
import { TokenRows } from "./token-rows.tsx";

export function AttentionPanel() {
  const { payload, state, model, colours, set } = useExplorer();
  const prompts = payload.prompts.find((one) => one.model === model.id && one.task === state.task);
  const pair = prompts?.pairs[state.pair];
  const wanted: Wanted = useMemo(
    () => ({ model: model.id, task: state.task, pair: state.pair, head: state.node, weighted: state.weighted, first: state.first }),
    [model.id, state.task, state.pair, state.node, state.weighted, state.first],
  );
  const sides = useMemo(() => (readHead(state.node) ? sidesOf(payload, wanted) : null), [payload, wanted]);
  const side: Side = sides && !sides[state.side] ? (sides.clean ? "clean" : "corrupt") : state.side;
  const title = readHead(state.node) ? `Attention of ${state.node}` : "Attention";
  const scene = () => {
    if (!sides || !pair || !sides[side]) return lines(title, ["No attention on this page"], colours.ink);
    const tokens = tokensOf(pair, side),
      layout = matrixLayout(tokens, 640);
    return stack(title, [
      lines(
        title,
        [`${title}, ${taskTitle(payload, state.task)}, pair ${state.pair}, ${side}${sides.weighted ? ", weighted by value norm" : ""}`],
        colours.ink,
      ),
      matrixScene(layout, sides[side]!, tokens, sides.limit, state.first, colours),
    ]);
  };
  return (
    <Panel
      name="attention"
      title={title}
      note={pair ? `${taskTitle(payload, state.task)}, pair ${state.pair}` : undefined}
      scene={scene}
      rows={() => (sides && pair ? attentionRows(sides, pair) : [])}
      python={() => attentionPython(payload, state)}
    >
      <div class="clx-row clx-controls">
        {prompts && <PairChooser count={prompts.pairs.length} withAttention={pairsWithAttention(payload, model.id, state.task)} />}
        <Segmented
          label="Side"
          value={side}
          onChange={(next) => set({ side: next })}
          options={[
            { value: "clean", label: "Clean", disabled: sides !== null && !sides.clean },
            { value: "corrupt", label: "Corrupt", disabled: sides !== null && !sides.corrupt },
            {
              value: "difference",
              label: "Difference",
              disabled: sides !== null && !sides.difference,
              title: "Clean minus corrupt, on the same scale",
            },
          ]}
        />
        <Check
          label="Weight by value norm"
          checked={state.weighted && (sides?.weighted ?? true)}
          disabled={sides !== null && !sides.patterns.clean?.norms}
          title="Weight times the norm of what the head writes for the key, as a share of the row"
          onChange={(weighted) => set({ weighted })}
        />
        <Check
          label="First token"
          checked={state.first}
          title="Many heads rest on the first token; leave it out of the colours"
          onChange={(first) => set({ first })}
        />
      </div>
      {pair && <Prompt pair={pair} />}
      {sides && pair && sides[side] ? <Drawn sides={sides} pair={pair} side={side} wanted={wanted} /> : <Missing />}
    </Panel>
  );
}

function Missing() {
  const { payload, state, model } = useExplorer();
  if (!readHead(state.node)) return <p class="clx-note">Choose a head to see what it attends to.</p>;
  if (!state.task) return <p class="clx-note">Scores from weights alone have no prompts.</p>;
  const pairs = pairsWithAttention(payload, model.id, state.task);
  const reason =
    payload.absent[`attention/${state.task}`] ??
    payload.absent.attention ??
    (pairs.includes(state.pair)
      ? `The page holds the attention of the strongest heads on this pair, and ${state.node} is not among them.`
      : pairs.length
        ? `The page holds the attention of ${pairs.length === 1 ? "pair" : "pairs"} ${pairs.join(", ")} of this task, and not of pair ${state.pair}.`
        : "The page holds no attention on this task.");
  return <Absent what="Attention" reason={`${reason} The Python of this panel measures it.`} />;
}

function PairChooser({ count, withAttention }: { count: number; withAttention: number[] }) {
  const { state, set } = useExplorer();
  const kept = new Set(withAttention);
  const options = Array.from({ length: count }, (_, i) => ({
    value: String(i),
    label: `${i}`,
    group: kept.has(i) ? "with attention" : kept.size ? "scores only" : undefined,
  }));
  return (
    <div class="clx-row clx-tight">
      <Select label="Pair" value={String(state.pair)} options={options} onChange={(value) => set({ pair: Number(value) })} />
      <button
        type="button"
        class="clx-icon"
        aria-label="Previous pair"
        disabled={state.pair <= 0}
        onClick={() => set({ pair: state.pair - 1 })}
      >
        <Icon name="left" />
      </button>
      <button
        type="button"
        class="clx-icon"
        aria-label="Next pair"
        disabled={state.pair >= count - 1}
        onClick={() => set({ pair: state.pair + 1 })}
      >
        <Icon name="right" />
      </button>
    </div>
  );
}

function Prompt({ pair }: { pair: Pair }) {
  return (
    <p class="clx-note">
      Answer <span class="clx-token clx-helps">{tokenText(pair.answer)}</span>
      {pair.foil !== undefined && (
        <>
          {" "}
          foil <span class="clx-token clx-hinders">{tokenText(pair.foil)}</span>
        </>
      )}
    </p>
  );
}

interface DrawnProps {
  sides: Sides;
  pair: Pair;
  side: Side;
  wanted: Wanted;
}

function Drawn({ sides, pair, side, wanted }: DrawnProps) {
  const { colours, state, set, payload } = useExplorer();
  const [box, width] = useWidth<HTMLDivElement>(420);
  const [hover, setHover] = useState<{ query: number; key: number } | null>(null);
  const tokens = tokensOf(pair, side);
  const weights = sides[side]!;
  const locked = {
    query: state.query >= 0 && state.query < sides.tokens ? state.query : Math.min(pair.end, sides.tokens - 1),
    key: state.key,
  };
  const focus = hover ?? locked;
  const layout = useMemo(() => matrixLayout(tokens, Math.min(width, 560)), [tokens, width]);
  const scene = useMemo(
    () => matrixScene(layout, weights, tokens, sides.limit, state.first, colours, focus),
    [layout, weights, tokens, sides.limit, state.first, colours, focus.query, focus.key],
  );
  const whys = whysOf(payload, wanted);
  return (
    <div class="clx-attention">
      <div class="clx-attention-tokens">
        <TokenRows
          sides={sides}
          weights={weights}
          pair={pair}
          side={side}
          focus={focus.query}
          onHover={(query) => setHover(query === null ? null : { query, key: locked.key <= query ? locked.key : -1 })}
          onLock={(query) => set({ query, key: -1 })}
        />
        <Readout sides={sides} pair={pair} focus={focus} wanted={wanted} />
        {whys.length > 0 && (
          <p class="clx-chips">
            <span class="clx-soft">Cells with query-key attribution</span>
            {whys.map((why, i) => (
              <button
                key={i}
                type="button"
                class={`clx-chip ${why.query === locked.query && why.key === locked.key ? "clx-on" : ""}`}
                onClick={() => set({ query: why.query, key: why.key })}
              >
                {tokenText(pair.clean[why.query] ?? why.query_token)} → {tokenText(pair.clean[why.key] ?? why.key_token)}
              </button>
            ))}
          </p>
        )}
      </div>
      <div ref={box} class="clx-attention-matrix">
        <div class="clx-scroll" tabIndex={0} role="region" aria-label="Attention matrix: queries down, keys across">
          <CanvasFigure
            scene={scene}
            label={`${scene.title}. The rows of tokens beside it say the same in text.`}
            onMove={(x, y) => setHover(matrixAt(layout, x, y))}
            onLeave={() => setHover(null)}
            onPick={(x, y) => {
              const cell = matrixAt(layout, x, y);
              if (cell) set(cell);
            }}
          />
        </div>
        <p class="clx-note">Queries down, keys across. Click to hold a cell.</p>
      </div>
    </div>
  );
}

function attentionRows(sides: Sides, pair: Pair): Rows {
  const n = sides.tokens;
  const rows: Rows = [
    ["query", "query token", "key", "key token", "clean", "corrupt", "difference", sides.weighted ? "weighted by value norm" : "attention"],
  ];
  for (let query = 0; query < n; query++) {
    for (let key = 0; key <= query; key++) {
      const i = query * n + key,
        clean = sides.clean?.[i],
        corrupt = sides.corrupt?.[i];
      if (clean || corrupt) rows.push([query, pair.clean[query], key, pair.clean[key], clean, corrupt, sides.difference?.[i], null]);
    }
  }
  return rows;
}
