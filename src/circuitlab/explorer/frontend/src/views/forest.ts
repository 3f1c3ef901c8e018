/** Means with intervals, one row each, as a scene. */
import { scaleLinear } from "d3-scale";
import type { Scene, Shape } from "../scene/scene.ts";
import { interval, signed } from "../ui/format.ts";
import type { Palette } from "../ui/theme.ts";
import { reachOf } from "../ui/whisker.tsx";
import { fitted } from "./scatter-scene.ts";

export interface Row {
  label: string;
  group: string;
  mean: number;
  low: number | null;
  high: number | null;
}

export function forestScene(rows: Row[], colours: Palette, width: number): Scene {
  const shapes: Shape[] = [];
  const labels = width * 0.38,
    plot = width * 0.3,
    height = 22;
  rows.forEach((row, i) => {
    const reach = reachOf(rows.filter((other) => other.group === row.group));
    const at = scaleLinear()
      .domain([reach.from, reach.to])
      .range([labels + 8, labels + plot]);
    const y = i * height + height / 2,
      colour = row.mean < 0 ? colours.hinders : colours.helps;
    shapes.push({ kind: "text", x: 0, y: y + 4, text: fitted(row.label, labels, 12), size: 12, fill: colours.ink });
    shapes.push({ kind: "line", x1: at(0), y1: y - 9, x2: at(0), y2: y + 9, stroke: colours.line });
    if (row.low !== null && row.high !== null)
      shapes.push({ kind: "line", x1: at(row.low), y1: y, x2: at(row.high), y2: y, stroke: colour, width: 1.5 });
    if (Number.isFinite(row.mean)) shapes.push({ kind: "circle", x: at(row.mean), y, r: 3.5, fill: colour });
    shapes.push({
      kind: "text",
      x: labels + plot + 14,
      y: y + 4,
      text: `${signed(row.mean)} ${interval(row.low, row.high)} ${row.group}`,
      size: 12,
      fill: colours.soft,
    });
  });
  return { width, height: Math.max(height, rows.length * height), title: "Scores", shapes };
}
