/** The slider: how much stays, how much is hidden, and how faithful the circuit is at that size. */
import { curveOf, faithfulnessAt, listed, type Cut } from "../data/circuits.ts";
import type { Circuit } from "../data/schema.ts";
import { useExplorer } from "../state/store.ts";
import { Absent } from "../ui/controls.tsx";
import { CanvasFigure, useWidth } from "../ui/figure.tsx";
import { count, number, probability } from "../ui/format.ts";
import { curvePlot, curveScene } from "./curve.ts";
import { withInterval } from "./verdicts.tsx";

/** Large circuits get a finer slider where circuits are small. */
const STEPS = 400;
export const toSlider = (size: number, most: number): number => (most <= STEPS ? size : Math.round(Math.sqrt(size / most) * STEPS));
export const fromSlider = (place: number, most: number): number => (most <= STEPS ? place : Math.round((place / STEPS) ** 2 * most));

export function faithfulnessSentence(circuit: Circuit, size: number): string {
  const curve = curveOf(circuit);
  if (!curve)
    return circuit.curves.length
      ? "The stored curve is of another ranking (signed), not of this list."
      : "No faithfulness curve was measured for this circuit.";
  const here = faithfulnessAt(curve.points, size);
  if (!here) {
    const sizes = curve.points.map((point) => point.size);
    return `Not measured at ${count(size, "element")}: the curve goes from ${Math.min(...sizes)} to ${Math.max(...sizes)}.`;
  }
  const [below, above] = here.between;
  return below === above
    ? `measured at ${count(size, "element")}`
    : `on the line between the measured sizes ${below.toLocaleString("en-GB")} and ${above.toLocaleString("en-GB")}`;
}

export function Faithfulness({ circuit, cut }: { circuit: Circuit; cut: Cut }) {
  const { payload, state, set, colours } = useExplorer();
  const [box, width] = useWidth<HTMLDivElement>(320);
  const most = listed(circuit),
    size = cut.size;
  const curve = curveOf(circuit),
    here = curve && faithfulnessAt(curve.points, size);
  const exact = circuit.random.find((one) => one.size === size);
  const plot = curvePlot(circuit, Math.max(260, width), 190);
  const sentence = faithfulnessSentence(circuit, size);
  const value = here ? withInterval({ mean: here.mean, low: here.low ?? undefined, high: here.high ?? undefined }) : "not known";
  const choose = (next: number): void => set({ size: Math.max(1, Math.min(most, next)) });
  return (
    <div ref={box} class="clx-faith">
      <label class="clx-slider">
        <span class="clx-label">{circuit.kind === "edges" ? "Edges kept" : "Nodes kept"}</span>
        <input
          type="range"
          min={Math.min(1, most)}
          max={most <= STEPS ? most : STEPS}
          value={toSlider(size, most)}
          aria-valuetext={`${count(size, "element")} kept, faithfulness ${value}`}
          onInput={(event) => choose(fromSlider(Number(event.currentTarget.value), most))}
        />
        <input
          type="number"
          min="1"
          max={most}
          value={size}
          aria-label="Number of elements kept"
          onChange={(event) => choose(Math.round(Number(event.currentTarget.value)) || 1)}
        />
      </label>
      <p class="clx-hidden-count" data-hidden-count>
        {count(cut.hidden, "element")} of {circuit.universe.toLocaleString("en-GB")} hidden
        {cut.unlisted ? `, ${cut.unlisted.toLocaleString("en-GB")} of which this page does not list` : ""}
      </p>
      <div class="clx-big" data-faithfulness>
        <span class="clx-label">Faithfulness</span>
        {here ? <b class="clx-num">{number(here.mean)}</b> : <span>not measured</span>}{" "}
        {here?.low !== null && here?.low !== undefined && (
          <span class="clx-num clx-soft">
            [{number(here.low)}, {number(here.high)}]
          </span>
        )}
        <p class="clx-note">{sentence}</p>
        {circuit.curves.length === 0 && payload.absent[`circuits/${circuit.id}`] && (
          <Absent reason={payload.absent[`circuits/${circuit.id}`]} />
        )}
      </div>
      <p class="clx-note" data-random>
        {exact ? (
          <>
            Random circuits of this size: <span class="clx-num">{number(exact.mean)}</span>, 95 % of {exact.n} from{" "}
            <span class="clx-num">{number(exact.low)}</span> to <span class="clx-num">{number(exact.high)}</span>
            {exact.p !== undefined && <>; p = {probability(exact.p)}</>}
          </>
        ) : circuit.random.length ? (
          <>
            Random circuits were run at{" "}
            {circuit.random.map((one) => (
              <button key={one.size} type="button" class="clx-link clx-num" onClick={() => choose(one.size)}>
                {one.size.toLocaleString("en-GB")}
              </button>
            ))}{" "}
            elements, not at this size.
          </>
        ) : (
          "No random circuits were run."
        )}
      </p>
      {circuit.faithfulness && (
        <p class="clx-note">
          The circuit itself ({circuit.rule}; {count(circuit.size, "element")}): <b class="clx-num">{withInterval(circuit.faithfulness)}</b>
          {circuit.n_pairs !== undefined && `, ${circuit.n_pairs} pairs`}
          {circuit.prompts && ` (${circuit.prompts})`}
        </p>
      )}
      {circuit.curves.length > 0 && (
        <CanvasFigure
          scene={curveScene(plot, circuit, size, colours)}
          label={`Faithfulness over size, with its interval and the band of random circuits. At ${size}: ${value}.`}
          onPick={(x) => choose(plot.size(x))}
        />
      )}
      {circuit.curves.length > 0 && (
        <p class="clx-note">
          Line: this circuit, by magnitude. Grey: random circuits. {circuit.faithfulness ? "Diamond: the circuit itself. " : ""}Click to
          choose a size.
        </p>
      )}
      {curve?.cpr && (
        <p class="clx-note">
          Area under the curve (CPR) <span class="clx-num">{withInterval(curve.cpr)}</span>
          {curve.cmd && (
            <>
              , distance from 1 (CMD) <span class="clx-num">{withInterval(curve.cmd)}</span>
            </>
          )}
        </p>
      )}
      <p class="clx-note">
        {Object.entries(circuit.conventions)
          .map(([name, what]) => `${name.replace(/_/g, " ")}: ${what}`)
          .join("; ")}
      </p>
      {state.port && <p class="clx-note">Only edges into {state.port} are drawn.</p>}
    </div>
  );
}
