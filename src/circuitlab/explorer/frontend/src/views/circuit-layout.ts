/** Where the nodes of a circuit stand: layers upwards, heads by their number, MLPs on the right. */
import type { Cut } from "../data/circuits.ts";
import { kvOf, layerOf, readHead, readMlp } from "../data/nodes.ts";
import type { Edge, Model } from "../data/schema.ts";

export interface Placed {
  name: string;
  x: number;
  y: number;
  w: number;
  h: number;
  kind: "head" | "kv" | "mlp" | "end";
}
export interface Layout {
  width: number;
  height: number;
  nodes: Map<string, Placed>;
  rows: { layer: number; y: number; label: string }[];
  bonds: [string, string][];
}

const H = 30,
  W = 62,
  GAP = 12,
  ROW = 58,
  KV = 40,
  LEFT = 58;

const kvName = /^a(\d+)\.kv(\d+)$/;

export function kindOf(name: string): Placed["kind"] {
  if (name === "embed" || name === "logits") return "end";
  if (readMlp(name) !== null) return "mlp";
  return kvName.test(name) ? "kv" : "head";
}

export function layoutOf(cut: Cut, model: Model, room: number): Layout {
  const layers = new Map<number, string[]>();
  for (const name of cut.nodes) {
    const layer = layerOf(name, model.n_layers);
    layers.set(layer, [...(layers.get(layer) ?? []), name]);
  }
  const order = [...layers.keys()].sort((a, b) => b - a);
  const most = Math.max(1, ...order.map((layer) => layers.get(layer)!.filter((name) => kindOf(name) !== "kv").length));
  const width = Math.max(room, LEFT + most * (W + GAP) + 20);
  const nodes = new Map<string, Placed>();
  const rows: Layout["rows"] = [];
  let y = 26;
  for (const layer of order) {
    const names = layers.get(layer)!;
    const kvs = names.filter((name) => kindOf(name) === "kv"),
      heads = names.filter((name) => kindOf(name) === "head"),
      rest = names.filter((name) => ["mlp", "end"].includes(kindOf(name)));
    rows.push({ layer, y: y + H / 2, label: layer < 0 ? "" : layer >= model.n_layers ? "" : `layer ${layer}` });
    const span = width - LEFT - 24 - (W + GAP);
    const wanted = heads.map((name) => LEFT + ((readHead(name)!.head + 0.5) / model.n_heads) * span);
    spread(wanted, LEFT + W / 2, LEFT + span - W / 2 + W, W + GAP).forEach((x, i) =>
      nodes.set(heads[i], { name: heads[i], x: x - W / 2, y, w: W, h: H, kind: "head" }),
    );
    for (const name of rest) {
      const kind = kindOf(name);
      nodes.set(
        name,
        kind === "end"
          ? { name, x: LEFT + span / 2 - W / 2, y, w: W + 12, h: H, kind }
          : { name, x: width - W - 14, y, w: W - 10, h: H, kind },
      );
    }
    if (kvs.length) {
      const groups = kvs.map((name) => LEFT + ((Number(kvName.exec(name)![2]) + 0.5) / model.n_kv_heads) * span);
      spread(groups, LEFT + W / 2, LEFT + span, W).forEach((x, i) =>
        nodes.set(kvs[i], { name: kvs[i], x: x - W / 2 + 4, y: y + KV, w: W - 8, h: 22, kind: "kv" }),
      );
      y += KV - 8;
    }
    y += ROW;
  }
  const bonds: [string, string][] = [];
  for (const placed of nodes.values()) {
    const head = readHead(placed.name),
      kv = head && `a${head.layer}.kv${kvOf(model, head.head)}`;
    if (kv && nodes.has(kv)) bonds.push([kv, placed.name]);
  }
  return { width, height: y, nodes, rows, bonds };
}

/** Keeps the order and the wanted places as far as neighbours do not touch. */
export function spread(wanted: number[], from: number, to: number, step: number): number[] {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
  const placed = [...wanted];
  let last = -Infinity;
  for (const i of order) last = placed[i] = Math.max(wanted[i], last + step, from);
  let next = Infinity;
  for (const i of order.reverse()) {
    const most = Math.min(placed[i], next - step, Math.max(to, from));
    next = placed[i] = next === Infinity ? Math.min(placed[i], Math.max(to, from)) : most;
  }
  return placed;
}

/** Where an edge enters: q, k and v have places of their own at the bottom of a node. */
export function portX(node: Placed, port: Edge["port"]): number {
  if (node.kind === "kv") return node.x + node.w * (port === "k" ? 0.3 : port === "v" ? 0.7 : 0.5);
  if (node.kind !== "head") return node.x + node.w / 2;
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
