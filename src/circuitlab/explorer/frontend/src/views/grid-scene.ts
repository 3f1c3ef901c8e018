/** The map of heads as a scene: layers down, heads across, key/value groups apart, MLPs in a column of their own. */
import type { Column } from "../data/metrics.ts";
import type { Model } from "../data/schema.ts";
import { hatch, type Scene, type Shape } from "../scene/scene.ts";
import { signed } from "../ui/format.ts";
import { divergingScale, type Palette, sequentialScale } from "../ui/theme.ts";

export interface Geometry {
  left: number;
  top: number;
  w: number;
  h: number;
  gap: number;
  group: number;
  layers: number;
  heads: number;
  mlps: boolean;
  mlpLeft: number;
  mlpWidth: number;
  width: number;
  height: number;
  legend: number;
}

const LEFT = 40,
  TOP = 6;

export function geometry(model: Model, width: number, mlps: boolean, maximum = 20): Geometry {
  const group = model.n_kv_heads < model.n_heads ? model.n_heads / model.n_kv_heads : model.n_heads;
  const groups = model.n_heads / group;
  const wide = width / model.n_heads > 12;
  const gap = groups > 1 ? (wide ? 6 : 3) : 0;
  const room = width - LEFT - (groups - 1) * gap - (mlps ? (wide ? 14 : 8) + 14 : 0) - 6;
  const w = Math.max(4.5, Math.min(60, room / (model.n_heads + (mlps && wide ? 1 : 0))));
  const h = Math.max(7, Math.min(maximum, w * 0.75));
  const right = LEFT + model.n_heads * w + (groups - 1) * gap;
  const mlpLeft = right + (wide ? 14 : 8),
    mlpWidth = mlps ? Math.max(w, 14) : 0;
  return {
    left: LEFT,
    top: TOP,
    w,
    h,
    gap,
    group,
    layers: model.n_layers,
    heads: model.n_heads,
    mlps,
    mlpLeft,
    mlpWidth,
    legend: 62,
    width: mlps ? mlpLeft + mlpWidth : right,
    height: TOP + model.n_layers * h + 44,
  };
}

export const headX = (g: Geometry, head: number): number => g.left + head * g.w + Math.floor(head / g.group) * g.gap;
export const layerY = (g: Geometry, layer: number): number => g.top + layer * g.h;

export interface Cell {
  layer: number;
  head: number;
  mlp: boolean;
}

export function cellAt(g: Geometry, x: number, y: number): Cell | null {
  const layer = Math.floor((y - g.top) / g.h);
  if (layer < 0 || layer >= g.layers) return null;
  if (g.mlps && x >= g.mlpLeft && x <= g.mlpLeft + g.mlpWidth) return { layer, head: -1, mlp: true };
  const span = g.group * g.w + g.gap;
  const group = Math.floor((x - g.left) / span);
  const head = group * g.group + Math.floor((x - g.left - group * span) / g.w);
  const inside = x >= g.left && head >= group * g.group && head < Math.min(g.heads, (group + 1) * g.group);
  return inside ? { layer, head, mlp: false } : null;
}

export function boxOf(g: Geometry, cell: Cell): { x: number; y: number; w: number; h: number } {
  return { x: cell.mlp ? g.mlpLeft : headX(g, cell.head), y: layerY(g, cell.layer), w: cell.mlp ? g.mlpWidth : g.w, h: g.h };
}

/** The largest magnitude over heads: MLPs can be far stronger and would leave every head pale. */
export function limitOf(column: Column): number {
  let limit = 0;
  for (const value of column.mean) if (!Number.isNaN(value)) limit = Math.max(limit, Math.abs(value));
  return limit;
}

export interface Marked {
  selected?: Cell | null;
  pinned?: Cell[];
  outlined?: Cell[];
  shared?: Cell[];
  limit?: number;
  legend?: boolean;
}

export function gridScene(g: Geometry, column: Column, colours: Palette, marked: Marked = {}): Scene {
  const limit = marked.limit ?? limitOf(column);
  const colour = column.diverging ? divergingScale(colours, limit) : sequentialScale(colours, limit);
  const shapes: Shape[] = [];
  const inner = g.w >= 9 ? 1 : 0.5;
  const step = g.h >= 12 ? 6 : 4;
  let marks = "";
  const cell = (x: number, y: number, w: number, value: number, distinct: number): void => {
    const known = !Number.isNaN(value);
    shapes.push({
      kind: "rect",
      x,
      y,
      w: w - inner,
      h: g.h - inner,
      fill: known ? colour(value) : colours.panel,
      stroke: known ? undefined : colours.faint,
      radius: g.w > 20 ? 2 : undefined,
    });
    if (distinct === 0) marks += hatch(x, y, w - inner, g.h - inner, step);
  };
  for (let layer = 0; layer < g.layers; layer++) {
    for (let head = 0; head < g.heads; head++) {
      const i = layer * g.heads + head;
      cell(headX(g, head), layerY(g, layer), g.w, column.mean[i], column.distinct[i]);
    }
    if (g.mlps && column.mlps) cell(g.mlpLeft, layerY(g, layer), g.mlpWidth, column.mlps.mean[layer], column.mlps.distinct[layer]);
  }
  if (marks) shapes.push({ kind: "path", d: marks, stroke: colours.soft, width: 0.6, opacity: g.h < 12 ? 0.28 : 0.34 });
  shapes.push(...axes(g, colours));
  for (const one of marked.outlined ?? []) shapes.push(outline(g, one, colours.ink, 1));
  for (const one of marked.shared ?? []) shapes.push(outline(g, one, colours.accent, 2.75));
  for (const one of marked.pinned ?? []) shapes.push(pin(g, one, colours));
  if (marked.selected) shapes.push(...ring(g, marked.selected, colours));
  let height = g.height;
  if (marked.legend !== false) {
    shapes.push(...legend(g, column, limit, colour, colours));
    height += g.legend;
  }
  return { width: Math.max(g.width + 6, marked.legend !== false ? LEAST : 0), height, title: column.label, shapes };
}

function outline(g: Geometry, cell: Cell, stroke: string, width: number): Shape {
  const box = boxOf(g, cell);
  return { kind: "rect", x: box.x - 0.5, y: box.y - 0.5, w: box.w, h: box.h, stroke, width, radius: g.w > 20 ? 3 : 1.5 };
}

/** Outside the cell, so that an outline of the cell itself stays visible. */
function ring(g: Geometry, cell: Cell, colours: Palette): Shape[] {
  const box = boxOf(g, cell);
  const around = { kind: "rect" as const, x: box.x - 3, y: box.y - 3, w: box.w + 5, h: box.h + 5, radius: g.w > 20 ? 5 : 3 };
  return [
    { ...around, stroke: colours.panel, width: 4.5 },
    { ...around, stroke: colours.ink, width: 2 },
  ];
}

function pin(g: Geometry, cell: Cell, colours: Palette): Shape {
  const box = boxOf(g, cell),
    size = Math.min(7, box.w * 0.6);
  return {
    kind: "path",
    d: `M${box.x} ${box.y}L${box.x + size} ${box.y}L${box.x} ${box.y + size}Z`,
    fill: colours.accent,
    stroke: colours.panel,
    width: 1,
  };
}

function axes(g: Geometry, colours: Palette): Shape[] {
  const shapes: Shape[] = [];
  const text = (x: number, y: number, value: string, anchor: "start" | "middle" | "end" = "middle", size = 11): Shape => ({
    kind: "text",
    x,
    y,
    text: value,
    size,
    fill: colours.soft,
    anchor,
  });
  const every = g.h >= 14 ? 1 : g.h >= 11 ? 2 : 5;
  for (let layer = 0; layer < g.layers; layer += every)
    shapes.push(text(g.left - 7, layerY(g, layer) + g.h / 2 + 4, String(layer), "end", g.h < 14 ? 10 : 11));
  const floor = layerY(g, g.layers);
  const step = g.w >= 16 ? 1 : g.w >= 9 ? 2 : 8;
  for (let head = 0; head < g.heads; head += step)
    shapes.push(text(headX(g, head) + g.w / 2, floor + 14, String(head), "middle", g.w < 16 ? 10 : 11));
  if (g.group < g.heads) {
    for (let kv = 0; kv * g.group < g.heads; kv++) {
      const from = headX(g, kv * g.group),
        to = headX(g, (kv + 1) * g.group - 1) + g.w - 1;
      shapes.push({ kind: "line", x1: from, y1: floor + 20.5, x2: to, y2: floor + 20.5, stroke: colours.line });
      shapes.push(text((from + to) / 2, floor + 33, to - from > 22 ? `kv${kv}` : String(kv), "middle", 10));
    }
  }
  if (g.mlps) shapes.push(text(g.mlpLeft + g.mlpWidth / 2, floor + 14, "MLP", "middle", 10));
  shapes.push({
    kind: "text",
    x: 9,
    y: g.top + (g.layers * g.h) / 2,
    text: "layer",
    size: 11,
    fill: colours.soft,
    anchor: "middle",
    rotate: -90,
  });
  return shapes;
}

/** Width that a legend needs. */
const LEAST = 300;

function legend(g: Geometry, column: Column, limit: number, colour: (value: number) => string, colours: Palette): Shape[] {
  const shapes: Shape[] = [];
  const top = g.height + 8,
    left = g.left,
    width = Math.min(190, Math.max(150, g.width * 0.35)),
    parts = 48;
  const from = column.diverging ? -limit : 0;
  for (let i = 0; i < parts; i++) {
    shapes.push({
      kind: "rect",
      x: left + (i * width) / parts,
      y: top,
      w: width / parts + 0.5,
      h: 8,
      fill: colour(from + ((limit - from) * (i + 0.5)) / parts),
    });
  }
  const text = (x: number, y: number, value: string, anchor: "start" | "middle" | "end" = "middle"): Shape => ({
    kind: "text",
    x,
    y,
    text: value,
    size: 11,
    fill: colours.soft,
    anchor,
  });
  shapes.push(text(left, top + 22, signed(from, 2), "start"), text(left + width, top + 22, signed(limit, 2), "end"));
  if (column.diverging) shapes.push(text(left + width / 2, top + 22, "0"));
  shapes.push(text(left, top + 40, column.units, "start"));
  if (column.distinct.includes(0)) {
    const x = left + width + 24,
      words = column.role ? "role not earned" : "cannot be told from 0";
    shapes.push({ kind: "rect", x, y: top - 3, w: 20, h: 13, fill: colours.diverging[3], radius: 2 });
    shapes.push({ kind: "path", d: hatch(x, top - 3, 20, 13, 5), stroke: colours.soft, width: 0.8, opacity: 0.7 });
    const narrow = x + 28 + 6 * words.length > Math.max(g.width + 6, LEAST);
    shapes.push(text(x + 28, top + 7, narrow ? (column.role ? "not earned" : "may be 0") : words, "start"));
  }
  return shapes;
}
