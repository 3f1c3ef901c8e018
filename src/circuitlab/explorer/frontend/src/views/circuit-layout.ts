/** Where the nodes of a circuit stand: layers upwards; heads by their number, or in the column of their position; MLPs on the right. */
import type { Box, Gathered } from "../data/groups.ts";
import { baseOf, kvOf, layerOf, readHead, readMlp } from "../data/nodes.ts";
import type { Edge, Model } from "../data/schema.ts";

export interface Placed {
  name: string;
  x: number;
  y: number;
  w: number;
  h: number;
  kind: "head" | "kv" | "mlp" | "end" | "group";
}
export interface Layout {
  width: number;
  height: number;
  nodes: Map<string, Placed>;
  rows: { layer: number; y: number; label: string }[];
  /** Positions of a circuit that has them, from left to right. */
  columns: { x: number; w: number; label: string }[];
  bonds: [string, string][];
}

/** The room that a layout is made for. */
export interface Room {
  width: number;
  /** Positions in the order of the prompt; empty where a circuit has none. */
  marks: string[];
}

const H = 30,
  W = 62,
  GAP = 12,
  ROW = 58,
  KV = 40,
  BOX = 44,
  LEFT = 58;

const kvName = /^a(\d+)\.kv(\d+)$/;

export function kindOf(name: string): Placed["kind"] {
  const base = baseOf(name);
  if (name.startsWith("group:")) return "group";
  if (base === "embed" || base === "logits") return "end";
  if (readMlp(base) !== null) return "mlp";
  return kvName.test(base) ? "kv" : "head";
}

const markOf = (name: string): string => name.split("@")[1] ?? "";

export function layoutOf(shown: Gathered, model: Model, room: Room): Layout {
  const layers = new Map<number, string[]>();
  for (const name of shown.nodes) {
    const layer = rowOf(name, shown, model);
    layers.set(layer, [...(layers.get(layer) ?? []), name]);
  }
  const order = [...layers.keys()].sort((a, b) => b - a);
  const widthOf = (name: string): number => (shown.boxes.has(name) ? boxWidth(shown.boxes.get(name)!) : W) + GAP;
  const columns = columnsOf(shown, [...layers.values()], room, widthOf);
  const most = Math.max(
    1,
    ...[...layers.values()].map((names) => names.filter((name) => kindOf(name) !== "kv").reduce((sum, name) => sum + widthOf(name), 0)),
  );
  const width = columns.length ? columns.at(-1)!.x + columns.at(-1)!.w + W + GAP + 20 : Math.max(room.width, LEFT + most + W + 32);
  const span = width - LEFT - 24 - (W + GAP);
  const nodes = new Map<string, Placed>();
  const rows: Layout["rows"] = [];
  let y = columns.length ? 48 : 26;
  for (const layer of order) {
    const names = layers.get(layer)!;
    const of = (...kinds: Placed["kind"][]): string[] => names.filter((name) => kinds.includes(kindOf(name)));
    rows.push({ layer, y: y + H / 2, label: layer < 0 || layer >= model.n_layers ? "" : `layer ${layer}` });
    const inRow = of("head", "group");
    const wanted = inRow.map((name) => LEFT + shareOf(name, shown, model) * span);
    const sizes = inRow.map(widthOf);
    const xs = columns.length
      ? inColumns(inRow, columns, (name) => columnOf(name, shown, room.marks), widthOf)
      : spread(wanted, sizes, LEFT, LEFT + span + GAP);
    inRow.forEach((name, i) => {
      const w = sizes[i] - GAP;
      nodes.set(name, { name, x: xs[i] - w / 2, y, w, h: shown.boxes.has(name) ? BOX : H, kind: kindOf(name) });
    });
    for (const name of of("end")) nodes.set(name, { name, x: LEFT + span / 2 - W / 2, y, w: W + 12, h: H, kind: "end" });
    for (const name of of("mlp")) nodes.set(name, { name, x: width - W - 14, y, w: W - 10, h: H, kind: "mlp" });
    const boxed = inRow.some((name) => shown.boxes.has(name)) ? BOX - H : 0;
    const kvs = of("kv");
    if (kvs.length) {
      const places = kvs.map((name) => LEFT + ((Number(kvName.exec(name)![2]) + 0.5) / model.n_kv_heads) * span);
      spread(
        places,
        places.map(() => W),
        LEFT,
        LEFT + span + W / 2,
      ).forEach((x, i) => nodes.set(kvs[i], { name: kvs[i], x: x - W / 2 + 4, y: y + KV + boxed, w: W - 8, h: 22, kind: "kv" }));
      y += KV - 8;
    }
    y += ROW + boxed;
  }
  return { width, height: y, nodes, rows, columns, bonds: bondsOf(nodes, shown, model) };
}

/** Layer of a node; a box stands in the middle one of its members' layers. */
function rowOf(name: string, shown: Gathered, model: Model): number {
  const box = shown.boxes.get(name);
  if (!box) return layerOf(name, model.n_layers);
  const layers = box.members.map((member) => layerOf(member, model.n_layers)).sort((a, b) => a - b);
  return layers[(layers.length - 1) >> 1];
}

/** Where between left and right a head belongs; a box in the middle of its members. */
function shareOf(name: string, shown: Gathered, model: Model): number {
  const members = (shown.boxes.get(name)?.members ?? [name]).map((member) => readHead(baseOf(member))).filter((head) => head !== null);
  if (!members.length) return 0.5;
  return members.reduce((sum, head) => sum + (head.head + 0.5) / model.n_heads, 0) / members.length;
}

export function boxWidth(box: Box): number {
  return Math.max(112, Math.min(190, 24 + 7.2 * box.name.length));
}

/** Query heads and the key/value heads that they share, also where a box holds the query head. */
function bondsOf(nodes: Map<string, Placed>, shown: Gathered, model: Model): [string, string][] {
  const bonds = new Map<string, [string, string]>();
  for (const name of [...nodes.keys(), ...shown.home.keys()]) {
    const head = readHead(baseOf(name)),
      kv = head && `a${head.layer}.kv${kvOf(model, head.head)}`,
      end = shown.home.get(name) ?? name;
    if (kv && nodes.has(kv) && nodes.has(end)) bonds.set(`${kv} ${end}`, [kv, end]);
  }
  return [...bonds.values()];
}

/** One column for every position, as wide as its fullest layer. */
function columnsOf(shown: Gathered, layers: string[][], room: Room, widthOf: (name: string) => number): Layout["columns"] {
  if (!room.marks.length) return [];
  const least = (room.width - LEFT - W - GAP - 20) / room.marks.length;
  let x = LEFT;
  return room.marks.map((label) => {
    const fullest = Math.max(
      ...layers.map((names) =>
        names.filter((name) => columnOf(name, shown, room.marks) === label).reduce((sum, name) => sum + widthOf(name), 0),
      ),
    );
    const column = { x, w: Math.max(least, fullest + GAP, W + 2 * GAP), label };
    x += column.w;
    return column;
  });
}

/** The position of a node; a box stands at the one that most of its members are at. */
function columnOf(name: string, shown: Gathered, marks: string[]): string {
  const box = shown.boxes.get(name);
  if (!box) return markOf(name);
  const counts = marks.map((mark) => box.members.filter((member) => markOf(member) === mark).length);
  return marks[counts.indexOf(Math.max(...counts))];
}

/** Centres of a layer's nodes, each inside its own column. */
function inColumns(
  names: string[],
  columns: Layout["columns"],
  columnOf: (name: string) => string,
  widthOf: (name: string) => number,
): number[] {
  const xs = new Map<string, number>();
  for (const column of columns) {
    const own = names.filter((name) => columnOf(name) === column.label);
    let x = column.x + (column.w - own.reduce((sum, name) => sum + widthOf(name), 0)) / 2;
    for (const name of own) {
      xs.set(name, x + widthOf(name) / 2);
      x += widthOf(name);
    }
  }
  return names.map((name) => xs.get(name) ?? columns[0].x);
}

/** Centres that keep the order and the wanted places as far as neighbours do not touch, between two edges. */
export function spread(wanted: number[], sizes: number[], from: number, to: number): number[] {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const placed = [...wanted];
  let edge = from;
  for (const i of order) {
    placed[i] = Math.max(wanted[i], edge + sizes[i] / 2);
    edge = placed[i] + sizes[i] / 2;
  }
  edge = to;
  for (const i of order.reverse()) {
    placed[i] = Math.min(placed[i], edge - sizes[i] / 2);
    edge = placed[i] - sizes[i] / 2;
  }
  return placed;
}

/** Where an edge enters: q, k and v have places of their own at the bottom of a node. */
export function portX(node: Placed, port: Edge["port"]): number {
  if (node.kind === "kv") return node.x + node.w * (port === "k" ? 0.3 : port === "v" ? 0.7 : 0.5);
  if (node.kind !== "head" && node.kind !== "group") return node.x + node.w / 2;
  return node.x + node.w * { q: 0.22, k: 0.5, v: 0.78, in: 0.5 }[port];
}

export function edgePath(from: Placed, to: Placed, port: Edge["port"]): string {
  const x1 = from.x + from.w / 2,
    y1 = from.y,
    x2 = portX(to, port),
    y2 = to.y + to.h + 3;
  const bend = Math.max(24, Math.abs(y1 - y2) * 0.42);
  return `M${x1.toFixed(1)} ${y1.toFixed(1)}C${x1.toFixed(1)} ${(y1 - bend).toFixed(1)} ${x2.toFixed(1)} ${(y2 + bend).toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}`;
}
