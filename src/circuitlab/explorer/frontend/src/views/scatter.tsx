/** Scatter plot with a brush: drag to mark heads, click to open one, arrow keys to walk along x. */
import { useMemo, useRef, useState } from "preact/hooks";
import type { Column } from "../data/metrics.ts";
import { headName, readHead } from "../data/nodes.ts";
import { useExplorer } from "../state/store.ts";
import { CanvasFigure, Tip } from "../ui/figure.tsx";
import { count, interval, signed } from "../ui/format.ts";
import { brushText, insideBrush, nearest, plotOf, scatterScene } from "./scatter-scene.ts";

interface Props {
  x: Column;
  y: Column;
  width: number;
  height: number;
  brush: number[];
  onBrush: (brush: number[]) => void;
  onPick: (name: string) => void;
}

export function Scatter({ x, y, width, height, brush, onBrush, onPick }: Props) {
  const { colours, model, state } = useExplorer();
  const [hover, setHover] = useState(-1);
  const [drag, setDrag] = useState<{ x0: number; y0: number; x1: number; y1: number } | null>(null);
  const box = useRef<HTMLDivElement>(null);
  const plot = useMemo(() => plotOf(x, y, width, height), [x, y, width, height]);
  const inside = useMemo(() => insideBrush(x, y, brush), [x, y, brush]);
  const index = (name: string): number => {
    const head = readHead(name);
    return head ? head.layer * model.n_heads + head.head : -1;
  };
  const name = (i: number): string => headName(Math.floor(i / model.n_heads), i % model.n_heads);
  const selected = index(state.node);
  const scene = useMemo(
    () => scatterScene(plot, x, y, colours, { selected, pinned: state.pins.map(index), inside, hover }),
    [plot, x, y, colours, selected, state.pins, inside, hover],
  );
  const along = useMemo(
    () =>
      Array.from(x.mean, (_, i) => i)
        .filter((i) => !Number.isNaN(x.mean[i]) && !Number.isNaN(y.mean[i]))
        .sort((a, b) => x.mean[a] - x.mean[b]),
    [x, y],
  );
  const at = (event: PointerEvent): [number, number] => {
    const rect = box.current!.getBoundingClientRect();
    return [event.clientX - rect.left, event.clientY - rect.top];
  };
  const down = (event: PointerEvent): void => {
    if (event.button !== 0) return;
    const [px, py] = at(event);
    setDrag({ x0: px, y0: py, x1: px, y1: py });
    box.current?.setPointerCapture(event.pointerId);
  };
  const move = (event: PointerEvent): void => {
    const [px, py] = at(event);
    if (drag) setDrag({ ...drag, x1: px, y1: py });
    else setHover(nearest(plot, x, y, px, py));
  };
  const up = (): void => {
    if (!drag) return;
    setDrag(null);
    if (Math.hypot(drag.x1 - drag.x0, drag.y1 - drag.y0) < 5) {
      const i = nearest(plot, x, y, drag.x1, drag.y1);
      if (i >= 0) onPick(name(i));
      else onBrush([]);
      return;
    }
    const xs = [plot.toX(drag.x0), plot.toX(drag.x1)].sort((a, b) => a - b),
      ys = [plot.toY(drag.y0), plot.toY(drag.y1)].sort((a, b) => a - b);
    onBrush([...xs, ...ys].map((value) => Number(value.toPrecision(6))));
  };
  const key = (event: KeyboardEvent): void => {
    const step: Record<string, number> = {
      ArrowLeft: -1,
      ArrowRight: 1,
      PageUp: -10,
      PageDown: 10,
      Home: -along.length,
      End: along.length,
    };
    if (event.key === "Escape" && brush.length) {
      event.preventDefault();
      onBrush([]);
      return;
    }
    if (event.key === "Enter" && hover >= 0) {
      event.preventDefault();
      onPick(name(hover));
      return;
    }
    if (!(event.key in step)) return;
    event.preventDefault();
    const place = along.indexOf(hover >= 0 ? hover : selected);
    setHover(along[Math.max(0, Math.min(along.length - 1, place + step[event.key]))]);
  };
  const said =
    hover >= 0 ? `${name(hover)}: x ${signed(x.mean[hover])} ${limits(x, hover)}, y ${signed(y.mean[hover])} ${limits(y, hover)}` : "";
  const shownBrush = drag
    ? drag
    : brush.length === 4
      ? { x0: plot.x(brush[0]), x1: plot.x(brush[1]), y0: plot.y(brush[2]), y1: plot.y(brush[3]) }
      : null;
  return (
    <div>
      <div
        ref={box}
        class="clx-plot"
        tabIndex={0}
        role="application"
        aria-label={`Scatter plot, ${scene.title}. Arrow keys walk along x, Enter opens the head.`}
        onPointerDown={down}
        onPointerMove={move}
        onPointerUp={up}
        onPointerLeave={() => !drag && setHover(-1)}
        onKeyDown={key}
      >
        <CanvasFigure scene={scene} label={scene.title} hidden>
          {shownBrush && (
            <i
              class="clx-brush"
              style={{
                left: `${Math.min(shownBrush.x0, shownBrush.x1)}px`,
                top: `${Math.min(shownBrush.y0, shownBrush.y1)}px`,
                width: `${Math.abs(shownBrush.x1 - shownBrush.x0)}px`,
                height: `${Math.abs(shownBrush.y1 - shownBrush.y0)}px`,
              }}
            />
          )}
          {hover >= 0 && !drag && (
            <Tip x={plot.x(x.mean[hover])} y={plot.y(y.mean[hover]) + 8} width={width}>
              <b class="clx-mono">{name(hover)}</b>
              <div class="clx-num">
                x {signed(x.mean[hover])} <span class="clx-soft">{limits(x, hover)}</span>
              </div>
              <div class="clx-num">
                y {signed(y.mean[hover])} <span class="clx-soft">{limits(y, hover)}</span>
              </div>
            </Tip>
          )}
        </CanvasFigure>
        <span class="clx-hidden" role="status">
          {said}
        </span>
      </div>
      <p class="clx-note">
        {inside ? (
          <>
            {count(inside.size, "head")} marked: {brushText(brush)}.{" "}
            <button type="button" class="clx-link" onClick={() => onBrush([])}>
              Clear
            </button>
          </>
        ) : (
          "Drag to mark heads; hollow dots are not distinguishable from 0 on one of the axes."
        )}
      </p>
      {inside && inside.size > 0 && (
        <div class="clx-chips" aria-label="Marked heads" role="group">
          {[...inside]
            .sort((a, b) => Math.abs(y.mean[b]) - Math.abs(y.mean[a]))
            .slice(0, 40)
            .map((i) => (
              <button key={i} type="button" class={`clx-chip clx-mono ${i === selected ? "clx-on" : ""}`} onClick={() => onPick(name(i))}>
                {name(i)}
              </button>
            ))}
          {inside.size > 40 && <span class="clx-soft">and {inside.size - 40} more; the list shows all</span>}
        </div>
      )}
    </div>
  );
}

function limits(column: Column, i: number): string {
  return column.low && column.high && !Number.isNaN(column.low[i]) ? interval(column.low[i], column.high[i]) : "";
}
