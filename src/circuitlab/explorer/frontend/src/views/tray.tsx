/** Pinned heads side by side. */
import { useMemo } from "preact/hooks";
import { perPair, scoresOf } from "../data/node-scores.ts";
import { headPython } from "../data/snippets.ts";
import { sidesOf, tokensOf } from "../data/sides.ts";
import type { Rows } from "../ui/panel.tsx";
import { beside, lines, stack, type Scene } from "../scene/scene.ts";
import { scoreOf } from "../state/state.ts";
import { useExplorer } from "../state/store.ts";
import { Badge, Icon } from "../ui/controls.tsx";
import { CanvasFigure } from "../ui/figure.tsx";
import { count, interval, number, signed, tokenText } from "../ui/format.ts";
import { Panel } from "../ui/panel.tsx";
import { reachOf, Whisker } from "../ui/whisker.tsx";
import { rolesOf } from "./card-parts.tsx";
import { forestScene } from "./forest.ts";
import { togglePin } from "./map.tsx";
import { matrixLayout, matrixScene } from "./matrix.ts";

export function Tray() {
  const { payload, state, model, set, colours } = useExplorer();
  if (state.pins.length === 0) return null;
  const scene = (): Scene =>
    beside(
      "Pinned heads",
      state.pins.map((pin) =>
        stack(pin, [
          lines(pin, [pin], colours.ink, 15),
          forestScene(
            scoresOf(payload, model, pin).map((one) => ({ label: one.what, group: one.score.units, ...one })),
            colours,
            460,
          ),
        ]),
      ),
    );
  const rows = (): Rows => [
    ["head", "what", "value", "low", "high", "q", "rank", "units"],
    ...state.pins.flatMap((pin) =>
      scoresOf(payload, model, pin).map((one) => [pin, one.what, one.mean, one.low, one.high, one.q, one.rank, one.score.units]),
    ),
  ];
  return (
    <Panel
      name="pinned"
      title="Pinned heads"
      note={`${count(state.pins.length, "head")} side by side, on the chosen task, method and pair`}
      scene={scene}
      rows={rows}
      python={() => state.pins.map((pin) => headPython(model, pin)).join("\n")}
      class="clx-wide"
      tools={
        <button type="button" class="clx-button" onClick={() => set({ pins: [] })}>
          Unpin all
        </button>
      }
    >
      <ul class="clx-tray" aria-label="Pinned heads" tabIndex={0}>
        {state.pins.map((pin) => (
          <Pinned key={pin} pin={pin} />
        ))}
      </ul>
    </Panel>
  );
}

function Pinned({ pin }: { pin: string }) {
  const { payload, state, model, set, colours } = useExplorer();
  const scores = useMemo(() => scoresOf(payload, model, pin), [payload, model, pin]);
  const current = scoreOf(payload, state);
  const own = scores.find((one) => one.score.id === current?.id);
  const all = state.pins.flatMap((other) => {
    const one = scoresOf(payload, model, other).find((score) => score.score.id === current?.id);
    return one ? [one] : [];
  });
  const here = current ? perPair(model, current, pin)?.[state.pair] : undefined;
  const roles = rolesOf(payload, model, pin).filter((one) => one.earned);
  const pair = payload.prompts.find((one) => one.model === model.id && one.task === state.task)?.pairs[state.pair];
  const sides = useMemo(
    () =>
      sidesOf(payload, { model: model.id, task: state.task, pair: state.pair, head: pin, weighted: state.weighted, first: state.first }),
    [payload, model, state.task, state.pair, pin, state.weighted, state.first],
  );
  const weights = sides ? (sides[state.side] ?? sides.clean) : null;
  const layout = useMemo(() => (pair ? matrixLayout(tokensOf(pair, state.side), 168, false) : null), [pair, state.side]);
  return (
    <li class={`clx-pinned ${pin === state.node ? "clx-on" : ""}`} data-pinned={pin}>
      <header>
        <button type="button" class="clx-link clx-mono clx-strong" onClick={() => set({ node: pin })}>
          {pin}
        </button>
        <button type="button" class="clx-icon" aria-label={`Unpin ${pin}`} onClick={() => set({ pins: togglePin(state.pins, pin) })}>
          <Icon name="close" />
        </button>
      </header>
      {own ? (
        <p>
          <Whisker
            mean={own.mean}
            low={own.low}
            high={own.high}
            reach={reachOf(all)}
            width={150}
            sure={own.q === null || own.q <= payload.level}
          />
          <br />
          <span class="clx-num">{signed(own.mean)}</span> <span class="clx-soft clx-num">{interval(own.low, own.high)}</span> <br />
          <span class="clx-soft">
            rank {own.rank} of {own.of}
          </span>
        </p>
      ) : (
        <p class="clx-soft">no score by the chosen method</p>
      )}
      {here !== undefined && !Number.isNaN(here) && (
        <p class="clx-soft">
          pair {state.pair}: <span class="clx-num">{signed(here)}</span>
        </p>
      )}
      <p class="clx-chips">
        {roles.length ? (
          roles.map((one) => (
            <Badge key={one.role.name} tone="accent">
              {one.role.title}
            </Badge>
          ))
        ) : (
          <span class="clx-soft">earns no role</span>
        )}
      </p>
      {sides && weights && pair && layout && (
        <CanvasFigure
          scene={matrixScene(layout, weights, tokensOf(pair, state.side), sides.limit, state.first, colours)}
          label={`Attention of ${pin}, ${state.side}`}
        />
      )}
      {sides?.clean && pair && (
        <Looks weights={sides.clean} n={sides.tokens} end={Math.min(pair.end, sides.tokens - 1)} tokens={pair.clean} />
      )}
    </li>
  );
}

function Looks({ weights, n, end, tokens }: { weights: Float32Array; n: number; end: number; tokens: string[] }) {
  const top = Array.from({ length: end + 1 }, (_, key) => ({ key, weight: weights[end * n + key] }))
    .sort((a, b) => b.weight - a.weight)
    .slice(0, 3)
    .filter((one) => one.weight > 0);
  return (
    <p class="clx-small">
      <span class="clx-soft">last token looks at</span>{" "}
      {top.map((one) => (
        <span key={one.key} class="clx-token">
          {tokenText(tokens[one.key])} <span class="clx-num clx-soft">{number(one.weight, 2)}</span>
        </span>
      ))}
    </p>
  );
}
