/** Faithfulness over size, with the band of random circuits. */
import { scaleLinear, scaleSqrt } from "d3-scale";
import type { Circuit } from "../data/schema.ts";
import { curveOf } from "../data/circuits.ts";
import type { Scene, Shape } from "../scene/scene.ts";
import { tickText } from "../ui/format.ts";
import type { Palette } from "../ui/theme.ts";

export interface CurvePlot {
  x: (size: number) => number;
  size: (px: number) => number;
  width: number;
  height: number;
}

export function curvePlot(circuit: Circuit, width: number, height: number): CurvePlot {
  const sx = scaleSqrt()
    .domain([0, circuit.universe])
    .range([40, width - 10]);
  return { x: (size) => sx(size), size: (px) => Math.round(sx.invert(px)), width, height };
}

export function curveScene(plot: CurvePlot, circuit: Circuit, size: number, colours: Palette): Scene {
  const curve = curveOf(circuit),
    points = [...(curve?.points ?? [])].sort((a, b) => a.size - b.size);
  const all = [
    0,
    1,
    ...points.flatMap((point) => [point.mean, point.low ?? point.mean, point.high ?? point.mean]),
    ...circuit.random.flatMap((one) => [one.low, one.high]),
  ];
  const y = scaleLinear()
    .domain([Math.min(...all), Math.max(...all)])
    .nice(4)
    .range([plot.height - 34, 8]);
  const shapes: Shape[] = [];
  const text = (x: number, py: number, value: string, anchor: "start" | "middle" | "end"): Shape => ({
    kind: "text",
    x,
    y: py,
    text: value,
    size: 10.5,
    fill: colours.soft,
    anchor,
  });
  for (const tick of y.ticks(4)) {
    shapes.push({
      kind: "line",
      x1: 40,
      y1: y(tick),
      x2: plot.width - 10,
      y2: y(tick),
      stroke: tick === 0 || tick === 1 ? colours.line : colours.faint,
    });
    shapes.push(text(34, y(tick) + 4, tickText(tick), "end"));
  }
  for (const share of [0, 0.1, 0.25, 0.5, 1]) {
    const tick = Math.round(circuit.universe * share);
    shapes.push(text(plot.x(tick), plot.height - 18, tick.toLocaleString("en-GB"), share === 1 ? "end" : "middle"));
  }
  shapes.push(text((40 + plot.width) / 2, plot.height - 3, "elements kept", "middle"));
  const xy = (px: number, value: number): string => `${px.toFixed(1)} ${y(value).toFixed(1)}`;
  const limits = points.filter((point) => point.low !== undefined && point.high !== undefined);
  if (limits.length > 1) {
    shapes.push({
      kind: "path",
      d: `M${limits.map((point) => xy(plot.x(point.size), point.high!)).join("L")}L${[...limits]
        .reverse()
        .map((point) => xy(plot.x(point.size), point.low!))
        .join("L")}Z`,
      fill: colours.helps,
      opacity: 0.18,
    });
  }
  const random = [...circuit.random].sort((a, b) => a.size - b.size);
  if (random.length > 1) {
    shapes.push({
      kind: "path",
      d: `M${random.map((one) => xy(plot.x(one.size), one.high)).join("L")}L${[...random]
        .reverse()
        .map((one) => xy(plot.x(one.size), one.low))
        .join("L")}Z`,
      fill: colours.plain,
      opacity: 0.22,
    });
  }
  for (const one of random) {
    shapes.push({
      kind: "line",
      x1: plot.x(one.size),
      y1: y(one.low),
      x2: plot.x(one.size),
      y2: y(one.high),
      stroke: colours.plain,
      width: 5,
      opacity: 0.55,
    });
    shapes.push({
      kind: "line",
      x1: plot.x(one.size) - 5,
      y1: y(one.mean),
      x2: plot.x(one.size) + 5,
      y2: y(one.mean),
      stroke: colours.plain,
      width: 2,
    });
  }
  if (points.length > 1)
    shapes.push({
      kind: "path",
      d: `M${points.map((point) => xy(plot.x(point.size), point.mean)).join("L")}`,
      stroke: colours.helps,
      width: 2,
    });
  for (const point of points) shapes.push({ kind: "circle", x: plot.x(point.size), y: y(point.mean), r: 3, fill: colours.helps });
  if (circuit.faithfulness)
    shapes.push({
      kind: "path",
      d: diamond(plot.x(circuit.size), y(circuit.faithfulness.mean), 5),
      fill: colours.panel,
      stroke: colours.ink,
      width: 1.5,
    });
  shapes.push({ kind: "line", x1: plot.x(size), y1: 4, x2: plot.x(size), y2: plot.height - 32, stroke: colours.accent, width: 1.5 });
  return { width: plot.width, height: plot.height, title: "Faithfulness over size", shapes };
}

function diamond(x: number, y: number, r: number): string {
  return `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z`;
}
