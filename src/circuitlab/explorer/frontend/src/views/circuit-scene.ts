/** The circuit as a scene. Nodes carry their name as key, so that the page can make buttons of them. */
import type { Box, Joined } from "../data/groups.ts";
import { baseOf } from "../data/nodes.ts";
import type { Edge } from "../data/schema.ts";
import type { Scene, Shape } from "../scene/scene.ts";
import type { NodeGroup } from "../state/state.ts";
import { type Palette, divergingScale, inkOn } from "../ui/theme.ts";
import { count } from "../ui/format.ts";
import { edgePath, type Layout, type Placed, portX } from "./circuit-layout.ts";
import { fitted } from "./scatter-scene.ts";

export const portColour = (colours: Palette, port: Edge["port"]): string => (port === "in" ? colours.plain : colours[port]);

export interface NodeLook {
  weights: Map<string, number>;
  limit: number;
  labels: Record<string, string>;
  groups: NodeGroup[];
  boxes: Map<string, Box>;
  chosen: string[];
  selected: string;
}

export function edgeShapes(layout: Layout, edges: Joined[], selected: string, colours: Palette): Shape[] {
  const most = Math.max(1e-12, ...edges.map((edge) => Math.abs(edge.weight)));
  const touching = (edge: Joined): boolean => edge.from === selected || edge.to === selected;
  const some = edges.some(touching);
  const shapes: Shape[] = [];
  for (const [kv, head] of layout.bonds) {
    const from = layout.nodes.get(kv)!,
      to = layout.nodes.get(head)!;
    shapes.push({
      kind: "line",
      x1: from.x + from.w / 2,
      y1: from.y,
      x2: to.x + to.w * 0.64,
      y2: to.y + to.h,
      stroke: colours.line,
      dash: [1.5, 3],
      width: 1.25,
    });
  }
  for (const edge of [...edges].sort((a, b) => Number(touching(a)) - Number(touching(b)) || Math.abs(a.weight) - Math.abs(b.weight))) {
    const from = layout.nodes.get(edge.from),
      to = layout.nodes.get(edge.to);
    if (!from || !to) continue;
    const share = Math.abs(edge.weight) / most;
    shapes.push({
      kind: "path",
      key: `${edge.from}->${edge.to}<${edge.port}>`,
      d: edgePath(from, to, edge.port),
      stroke: portColour(colours, edge.port),
      width: 0.75 + 4 * share,
      opacity: some ? (touching(edge) ? 0.95 : 0.1) : 0.22 + 0.6 * share,
      dash: edge.weight < 0 ? [5, 3.5] : undefined,
    });
  }
  return shapes;
}

/** How many edges a merged line stands for, in the middle of it; drawn above the nodes. Of a lit node, only its own. */
export function countShapes(layout: Layout, edges: Joined[], selected: string, colours: Palette): Shape[] {
  const touching = (edge: Joined): boolean => edge.from === selected || edge.to === selected;
  const some = edges.some(touching);
  return edges.flatMap((edge): Shape[] => {
    const from = layout.nodes.get(edge.from),
      to = layout.nodes.get(edge.to);
    if (!from || !to || edge.of === undefined || (some && !touching(edge))) return [];
    const text = `${edge.of}\u00d7`,
      x = (from.x + from.w / 2 + portX(to, edge.port)) / 2,
      y = (from.y + to.y + to.h + 3) / 2,
      w = 8 + 6 * text.length;
    return [
      {
        kind: "rect",
        x: x - w / 2,
        y: y - 7.5,
        w,
        h: 15,
        fill: colours.panel,
        stroke: portColour(colours, edge.port),
        width: 1,
        radius: 7.5,
      },
      { kind: "text", x, y: y + 3.5, text, size: 10, fill: colours.ink, anchor: "middle", weight: 600 },
    ];
  });
}

/** Key of the text below a name, which is no part of the button's own text. */
export const BELOW = "below";

/** What a box says below its name. */
export function sizeOf(box: Box): string {
  const [first, last] = box.layers;
  const where = first < 0 ? "" : first === last ? `, layer ${first}` : `, layers ${first}\u2013${last}`;
  return `${count(box.named, "node")}${where}`;
}

/** A group as one box, with a second outline behind it. */
function boxShapes(node: Placed, box: Box, look: NodeLook, colours: Palette): Shape[] {
  const ring = colours.categories[box.index % colours.categories.length],
    lit = node.name === look.selected || look.chosen.includes(node.name);
  const outline = { kind: "rect" as const, w: node.w, h: node.h, stroke: lit ? colours.accent : ring, radius: 8 };
  return [
    { ...outline, x: node.x, y: node.y, fill: colours.panel, width: lit ? 3 : 2 },
    { ...outline, x: node.x + 3, y: node.y + 3, w: node.w - 6, h: node.h - 6, width: 1, radius: 5.5, opacity: 0.7 },
    {
      kind: "text",
      x: node.x + node.w / 2,
      y: node.y + 19,
      text: fitted(box.name, node.w - 24, 13),
      size: 12,
      fill: colours.ink,
      anchor: "middle",
      weight: 700,
    },
    {
      kind: "text",
      key: BELOW,
      x: node.x + node.w / 2,
      y: node.y + 33,
      text: sizeOf(box),
      size: 10,
      fill: colours.soft,
      anchor: "middle",
    },
  ];
}

export function nodeShapes(node: Placed, look: NodeLook, colours: Palette): Shape[] {
  const box = look.boxes.get(node.name);
  if (box) return boxShapes(node, box, look, colours);
  const weight = look.weights.get(node.name);
  const fill = weight === undefined ? colours.panel : divergingScale(colours, look.limit)(weight);
  const group = look.groups.findIndex((one) => one.nodes.includes(node.name));
  const ring = group >= 0 ? colours.categories[group % colours.categories.length] : colours.line;
  const selected = node.name === look.selected,
    chosen = look.chosen.includes(node.name);
  const label = look.labels[node.name];
  const ink = inkOn(fill);
  const shapes: Shape[] = [
    {
      kind: "rect",
      x: node.x,
      y: node.y,
      w: node.w,
      h: node.h,
      fill,
      stroke: selected || chosen ? colours.accent : ring,
      width: selected || chosen ? 2.5 : group >= 0 ? 2.5 : 1,
      radius: node.kind === "mlp" ? 3 : node.kind === "end" ? 5 : node.h / 2,
    },
  ];
  if (chosen && !selected)
    shapes.push({
      kind: "rect",
      x: node.x - 3,
      y: node.y - 3,
      w: node.w + 6,
      h: node.h + 6,
      stroke: colours.accent,
      width: 1,
      radius: node.h / 2 + 3,
      opacity: 0.6,
    });
  const size = node.kind === "kv" ? 10.5 : 12;
  shapes.push({
    kind: "text",
    x: node.x + node.w / 2,
    y: node.y + node.h / 2 + (label ? -1 : size / 3),
    text: baseOf(node.name),
    size,
    fill: ink,
    anchor: "middle",
    weight: node.kind === "kv" ? 400 : 600,
    mono: true,
  });
  if (label)
    shapes.push({
      kind: "text",
      x: node.x + node.w / 2,
      y: node.y + node.h / 2 + 10,
      text: fitted(label, node.w - 6, 9),
      size: 9,
      fill: ink,
      anchor: "middle",
    });
  return shapes;
}

export function portShapes(layout: Layout, edges: Joined[], colours: Palette): Shape[] {
  const used = new Set(edges.filter((edge) => edge.port !== "in").map((edge) => `${edge.to} ${edge.port}`));
  return [...used].flatMap((entry): Shape[] => {
    const [name, port] = entry.split(" ") as [string, "q" | "k" | "v"],
      node = layout.nodes.get(name);
    if (!node) return [];
    const x = portX(node, port),
      y = node.y + node.h;
    return [
      { kind: "circle", x, y, r: 5.5, fill: portColour(colours, port), stroke: colours.panel, width: 1.5 },
      { kind: "text", x, y: y + 3, text: port, size: 8.5, fill: inkOn(portColour(colours, port)), anchor: "middle", weight: 700 },
    ];
  });
}

export function rowShapes(layout: Layout, colours: Palette): Shape[] {
  const columns = layout.columns.flatMap((column, i): Shape[] => [
    {
      kind: "rect",
      x: column.x + 2,
      y: 6,
      w: column.w - 4,
      h: layout.height - 12,
      fill: i % 2 ? undefined : colours.faint,
      opacity: 0.45,
      radius: 6,
    },
    { kind: "text", x: column.x + column.w / 2, y: 24, text: column.label, size: 12, fill: colours.ink, anchor: "middle", weight: 700 },
  ]);
  const rows = layout.rows.flatMap((row): Shape[] => [
    { kind: "line", x1: 54, y1: row.y, x2: layout.width - 6, y2: row.y, stroke: colours.faint, width: 1 },
    { kind: "text", x: 4, y: row.y + 4, text: row.label, size: 11, fill: colours.soft },
  ]);
  return [...columns, ...rows];
}

export function circuitScene(layout: Layout, edges: Joined[], look: NodeLook, colours: Palette, title: string): Scene {
  return {
    width: layout.width,
    height: layout.height,
    title,
    shapes: [
      ...rowShapes(layout, colours),
      ...edgeShapes(layout, edges, look.selected, colours),
      ...[...layout.nodes.values()].flatMap((node) => nodeShapes(node, look, colours)),
      ...portShapes(layout, edges, colours),
      ...countShapes(layout, edges, look.selected, colours),
    ],
  };
}
