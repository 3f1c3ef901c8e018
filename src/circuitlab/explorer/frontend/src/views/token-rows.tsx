/** The prompt twice: where the chosen token looks, and who looks at it. */
import { useRef } from "preact/hooks";
import type { Pair } from "../data/schema.ts";
import { marksOf, tokensOf, type Sides } from "../data/sides.ts";
import type { Side } from "../state/state.ts";
import { useExplorer } from "../state/store.ts";
import { number, signed, tokenText } from "../ui/format.ts";
import { divergingScale, inkOn } from "../ui/theme.ts";

interface Props {
  sides: Sides;
  weights: Float32Array;
  pair: Pair;
  side: Side;
  focus: number;
  onHover: (query: number | null) => void;
  onLock: (query: number) => void;
}

export function TokenRows(props: Props) {
  const { sides, weights, pair, side, focus } = props;
  const tokens = tokensOf(pair, side),
    n = sides.tokens;
  const name = <span class="clx-token">{tokenText(tokens[focus] ?? "")}</span>;
  return (
    <>
      <h3 class="clx-row-title">Where {name} looks</h3>
      <TokenRow {...props} label={`Where token ${focus} looks`} value={(i) => (i <= focus ? weights[focus * n + i] : NaN)} interactive />
      <h3 class="clx-row-title">Who looks at {name}</h3>
      <TokenRow {...props} label={`Who looks at token ${focus}`} value={(i) => (i >= focus ? weights[i * n + focus] : NaN)} />
    </>
  );
}

function TokenRow({
  sides,
  pair,
  side,
  focus,
  onHover,
  onLock,
  label,
  value,
  interactive,
}: Props & { label: string; value: (i: number) => number; interactive?: boolean }) {
  const { colours, state } = useExplorer();
  const row = useRef<HTMLDivElement>(null);
  const tokens = tokensOf(pair, side),
    marks = marksOf(pair);
  const colour = divergingScale(colours, sides.limit);
  const key = (event: KeyboardEvent, i: number): void => {
    const step: Record<string, number> = { ArrowLeft: -1, ArrowRight: 1, Home: -tokens.length, End: tokens.length };
    if (!(event.key in step)) return;
    event.preventDefault();
    row.current?.querySelectorAll("button")[Math.max(0, Math.min(tokens.length - 1, i + step[event.key]))]?.focus();
  };
  return (
    <div ref={row} class="clx-prompt" role="group" aria-label={label} onPointerLeave={() => onHover(null)}>
      {tokens.map((token, i) => {
        const weight = value(i),
          known = !Number.isNaN(weight),
          leftOut = !state.first && (interactive ? i === 0 : focus === 0);
        const fill = known && !leftOut ? colour(weight) : "transparent";
        const other = pair.clean[i] !== pair.corrupt[i] ? (side === "corrupt" ? pair.clean[i] : pair.corrupt[i]) : undefined;
        const said = known ? `${side === "difference" ? signed(weight) : number(weight)}` : "";
        const inside = (
          <>
            {marks.size > 0 && <span class="clx-mark">{marks.get(i)}</span>}
            <span class="clx-token-text" style={{ background: fill, color: known && !leftOut ? inkOn(fill) : undefined }}>
              {tokenText(token)}
            </span>
            {other !== undefined && <span class="clx-other">{tokenText(other)}</span>}
          </>
        );
        const look = `clx-word ${i === focus ? "clx-focus" : ""} ${other !== undefined ? "clx-differs" : ""} ${known ? "" : "clx-off"}`;
        return interactive ? (
          <button
            key={i}
            type="button"
            class={look}
            tabIndex={i === focus ? 0 : -1}
            aria-pressed={state.query === i}
            title={said}
            onPointerEnter={() => onHover(i)}
            onFocus={() => onHover(i)}
            onBlur={() => onHover(null)}
            onClick={() => onLock(i)}
            onKeyDown={(event) => key(event, i)}
          >
            {inside}
            <span class="clx-hidden">{`, position ${i}${said ? `, ${said}` : ""}`}</span>
          </button>
        ) : (
          <span key={i} class={look} title={said} onPointerEnter={() => onHover(i)} onClick={() => onLock(i)}>
            {inside}
          </span>
        );
      })}
    </div>
  );
}
