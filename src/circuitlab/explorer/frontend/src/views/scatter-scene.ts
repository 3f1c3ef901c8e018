/** Any two columns against each other. */
import { extent, ticks } from "d3-array";
import { scaleLinear } from "d3-scale";
import type { Column } from "../data/metrics.ts";
import type { Scene, Shape } from "../scene/scene.ts";
import { signed, tickText } from "../ui/format.ts";
import type { Palette } from "../ui/theme.ts";

export interface Plot {
  width: number;
  height: number;
  left: number;
  right: number;
  top: number;
  bottom: number;
  x: (value: number) => number;
  y: (value: number) => number;
  toX: (px: number) => number;
  toY: (px: number) => number;
  xTicks: number[];
  yTicks: number[];
}

export function plotOf(x: Column, y: Column, width: number, height: number): Plot {
  const left = 68,
    right = width - 14,
    top = 12,
    bottom = height - 44;
  const domain = (column: Column): [number, number] => {
    const [low, high] = extent(column.mean) as [number | undefined, number | undefined];
    const from = Math.min(low ?? 0, 0),
      to = Math.max(high ?? 1, 0),
      pad = (to - from || 1) * 0.05;
    return [column.diverging || from < 0 ? from - pad : from - pad * 0.5, to + pad];
  };
  const sx = scaleLinear().domain(domain(x)).range([left, right]),
    sy = scaleLinear().domain(domain(y)).range([bottom, top]);
  const [x0, x1] = sx.domain(),
    [y0, y1] = sy.domain();
  return {
    width,
    height,
    left,
    right,
    top,
    bottom,
    x: (value) => sx(value),
    y: (value) => sy(value),
    toX: (px) => sx.invert(px),
    toY: (px) => sy.invert(px),
    xTicks: ticks(x0, x1, Math.max(3, width / 90)),
    yTicks: ticks(y0, y1, Math.max(3, height / 60)),
  };
}

export interface PointMarks {
  selected: number;
  pinned: number[];
  inside: Set<number> | null;
  hover: number;
}

export function scatterScene(plot: Plot, x: Column, y: Column, colours: Palette, marks: PointMarks): Scene {
  const shapes: Shape[] = [];
  const text = (at: { x: number; y: number }, value: string, more: Partial<Extract<Shape, { kind: "text" }>> = {}): Shape => ({
    kind: "text",
    ...at,
    text: value,
    size: 11,
    fill: colours.soft,
    ...more,
  });
  for (const tick of plot.xTicks) {
    shapes.push({
      kind: "line",
      x1: plot.x(tick),
      y1: plot.top,
      x2: plot.x(tick),
      y2: plot.bottom,
      stroke: tick === 0 ? colours.line : colours.faint,
    });
    shapes.push(text({ x: plot.x(tick), y: plot.bottom + 16 }, tickText(tick), { anchor: "middle" }));
  }
  for (const tick of plot.yTicks) {
    shapes.push({
      kind: "line",
      x1: plot.left,
      y1: plot.y(tick),
      x2: plot.right,
      y2: plot.y(tick),
      stroke: tick === 0 ? colours.line : colours.faint,
    });
    shapes.push(text({ x: plot.left - 8, y: plot.y(tick) + 4 }, tickText(tick), { anchor: "end" }));
  }
  shapes.push(
    text({ x: (plot.left + plot.right) / 2, y: plot.height - 8 }, fitted(`${x.label} (${x.units})`, plot.right - plot.left), {
      anchor: "middle",
      fill: colours.ink,
    }),
  );
  shapes.push(
    text({ x: 12, y: (plot.top + plot.bottom) / 2 }, fitted(`${y.label} (${y.units})`, plot.bottom - plot.top), {
      anchor: "middle",
      rotate: -90,
      fill: colours.ink,
    }),
  );
  const many = x.mean.length > 1500,
    size = many ? 2 : 3.5;
  const order = Array.from(x.mean, (_, i) => i).filter((i) => !Number.isNaN(x.mean[i]) && !Number.isNaN(y.mean[i]));
  const whiskers = [...new Set([...marks.pinned, marks.selected, marks.hover])].filter((i) => i >= 0);
  for (const i of whiskers) shapes.push(...whisker(plot, x, y, i, colours));
  for (const i of order) {
    const sure = x.distinct[i] !== 0 && y.distinct[i] !== 0,
      faded = marks.inside !== null && !marks.inside.has(i);
    const one: Shape = { kind: "circle", x: plot.x(x.mean[i]), y: plot.y(y.mean[i]), r: size, opacity: faded ? 0.25 : sure ? 0.85 : 0.7 };
    shapes.push(sure ? { ...one, fill: colours.helps } : { ...one, fill: colours.panel, stroke: colours.plain, width: 1 });
  }
  for (const i of marks.pinned)
    shapes.push({ kind: "circle", x: plot.x(x.mean[i]), y: plot.y(y.mean[i]), r: size + 1.5, fill: colours.accent });
  if (marks.selected >= 0)
    shapes.push({
      kind: "circle",
      x: plot.x(x.mean[marks.selected]),
      y: plot.y(y.mean[marks.selected]),
      r: size + 4,
      stroke: colours.accent,
      width: 2,
    });
  return { width: plot.width, height: plot.height, title: `${y.label} against ${x.label}`, shapes };
}

/** Intervals of one head, as far as the plot goes. */
function whisker(plot: Plot, x: Column, y: Column, i: number, colours: Palette): Shape[] {
  const shapes: Shape[] = [];
  const line = { kind: "line" as const, stroke: colours.ink, width: 1, opacity: 0.7 };
  const across = (value: number): number => Math.max(plot.left, Math.min(plot.right, plot.x(value)));
  const up = (value: number): number => Math.max(plot.top, Math.min(plot.bottom, plot.y(value)));
  const px = across(x.mean[i]),
    py = up(y.mean[i]);
  if (x.low && x.high && !Number.isNaN(x.low[i])) shapes.push({ ...line, x1: across(x.low[i]), y1: py, x2: across(x.high[i]), y2: py });
  if (y.low && y.high && !Number.isNaN(y.low[i])) shapes.push({ ...line, x1: px, y1: up(y.low[i]), x2: px, y2: up(y.high[i]) });
  return shapes;
}

/** Cut to what has room, by a rough width of the letters. */
export function fitted(text: string, room: number, size = 11): string {
  const most = Math.max(4, Math.floor(room / (size * 0.54)));
  return text.length > most ? `${text.slice(0, most - 1)}\u2026` : text;
}

export function nearest(plot: Plot, x: Column, y: Column, px: number, py: number): number {
  let best = -1,
    least = 14 * 14;
  for (let i = 0; i < x.mean.length; i++) {
    const d = (plot.x(x.mean[i]) - px) ** 2 + (plot.y(y.mean[i]) - py) ** 2;
    if (d < least) {
      least = d;
      best = i;
    }
  }
  return best;
}

export function insideBrush(x: Column, y: Column, brush: number[]): Set<number> | null {
  if (brush.length !== 4) return null;
  const [x0, x1, y0, y1] = brush;
  const inside = new Set<number>();
  for (let i = 0; i < x.mean.length; i++) if (x.mean[i] >= x0 && x.mean[i] <= x1 && y.mean[i] >= y0 && y.mean[i] <= y1) inside.add(i);
  return inside;
}

export const brushText = (brush: number[]): string =>
  `x from ${signed(brush[0])} to ${signed(brush[1])}, y from ${signed(brush[2])} to ${signed(brush[3])}`;
