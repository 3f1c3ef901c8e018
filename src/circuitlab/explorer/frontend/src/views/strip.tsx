/** One dot per prompt pair; a dot opens the pair. */
import { scaleLinear } from "d3-scale";
import { useMemo, useRef } from "preact/hooks";
import type { Scene, Shape } from "../scene/scene.ts";
import { shapeElement } from "../ui/figure.tsx";
import { signed, tickText } from "../ui/format.ts";
import type { Palette } from "../ui/theme.ts";

const RADIUS = 4.5,
  HEIGHT = 92;

export interface Dot {
  pair: number;
  value: number;
  x: number;
  y: number;
}

/** Dots at their value, pushed up where they would touch. */
/** `also`: further values that must fit, such as the ends of the interval. */
export function dotsOf(
  values: Float32Array,
  width: number,
  also: (number | null)[] = [],
): { dots: Dot[]; at: (value: number) => number; ticks: number[] } {
  const known = Array.from(values, (value, pair) => ({ pair, value }))
    .filter((one) => !Number.isNaN(one.value))
    .sort((a, b) => a.value - b.value);
  const all = [0, ...known.map((one) => one.value), ...also.filter((value) => value !== null && !Number.isNaN(value))] as number[];
  const low = Math.min(...all),
    high = Math.max(...all);
  const pad = (high - low || 1) * 0.05;
  const scale = scaleLinear()
    .domain([low - pad, high + pad])
    .range([8, width - 8]);
  const dots: Dot[] = [];
  for (const one of known) {
    const x = scale(one.value);
    let y = HEIGHT - 34;
    while (dots.some((dot) => Math.hypot(dot.x - x, dot.y - y) < 2 * RADIUS) && y > RADIUS + 2) y -= 3;
    dots.push({ ...one, x, y });
  }
  return { dots, at: (value) => scale(value), ticks: scale.ticks(Math.max(3, Math.floor(width / 80))) };
}

export function stripScene(
  values: Float32Array,
  width: number,
  colours: Palette,
  pair: number,
  mean: { mean: number; low: number | null; high: number | null },
  units: string,
): Scene {
  const { dots, at, ticks } = dotsOf(values, width, [mean.low, mean.high]);
  const floor = HEIGHT - 26;
  const shapes: Shape[] = [
    { kind: "line", x1: 4, y1: floor, x2: width - 4, y2: floor, stroke: colours.faint },
    { kind: "line", x1: at(0), y1: 2, x2: at(0), y2: floor, stroke: colours.line },
  ];
  for (const tick of ticks)
    shapes.push({ kind: "text", x: at(tick), y: HEIGHT - 2, text: tickText(tick), size: 10.5, fill: colours.soft, anchor: "middle" });
  if (mean.low !== null && mean.high !== null)
    shapes.push({ kind: "line", x1: at(mean.low), y1: floor + 5, x2: at(mean.high), y2: floor + 5, stroke: colours.ink, width: 2 });
  shapes.push({
    kind: "path",
    d: `M${at(mean.mean)} ${floor + 1}L${at(mean.mean) + 4} ${floor + 5}L${at(mean.mean)} ${floor + 9}L${at(mean.mean) - 4} ${floor + 5}Z`,
    fill: colours.ink,
  });
  for (const dot of dots)
    shapes.push({
      kind: "circle",
      x: dot.x,
      y: dot.y,
      r: RADIUS,
      fill: dot.value < 0 ? colours.hinders : colours.helps,
      opacity: 0.8,
      stroke: dot.pair === pair ? colours.accent : undefined,
      width: dot.pair === pair ? 3 : undefined,
    });
  return { width, height: HEIGHT, title: `Score on every pair (${units})`, shapes };
}

interface Props {
  values: Float32Array;
  width: number;
  colours: Palette;
  pair: number;
  units: string;
  mean: { mean: number; low: number | null; high: number | null };
  onPick: (pair: number) => void;
}

export function Strip({ values, width, colours, pair, units, mean, onPick }: Props) {
  const { dots } = useMemo(() => dotsOf(values, width, [mean.low, mean.high]), [values, width, mean.low, mean.high]);
  const scene = stripScene(values, width, colours, pair, mean, units);
  const svg = useRef<SVGSVGElement>(null);
  const base = scene.shapes.slice(0, scene.shapes.length - dots.length),
    marks = scene.shapes.slice(-dots.length);
  const key = (event: KeyboardEvent, place: number): void => {
    const step: Record<string, number> = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 1, ArrowDown: -1, Home: -dots.length, End: dots.length };
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      onPick(dots[place].pair);
      return;
    }
    if (!(event.key in step)) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(dots.length - 1, place + step[event.key]));
    svg.current?.querySelectorAll<SVGElement>("[role=radio]")[next]?.focus();
  };
  const current = Math.max(
    0,
    dots.findIndex((dot) => dot.pair === pair),
  );
  return (
    <svg
      ref={svg}
      class="clx-svg clx-strip"
      width={scene.width}
      height={scene.height}
      viewBox={`0 0 ${scene.width} ${scene.height}`}
      role="radiogroup"
      aria-label={`${scene.title}: choose a pair`}
    >
      {base.map(shapeElement)}
      {dots.map((dot, i) => (
        <g
          key={dot.pair}
          role="radio"
          aria-checked={dot.pair === pair}
          tabindex={i === current ? 0 : -1}
          aria-label={`pair ${dot.pair}: ${signed(dot.value)} ${units}`}
          data-pair={dot.pair}
          onClick={() => onPick(dot.pair)}
          onKeyDown={(event) => key(event, i)}
        >
          <title>{`pair ${dot.pair}: ${signed(dot.value)} ${units}`}</title>
          <circle cx={dot.x} cy={dot.y} r={RADIUS + 3} fill="transparent" />
          {shapeElement(marks[i], i)}
        </g>
      ))}
    </svg>
  );
}
