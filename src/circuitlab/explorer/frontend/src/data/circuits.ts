/** A circuit at a size: what stays, what is hidden, and the stored faithfulness there. */
import type { Circuit, Curve, Edge, Model } from "./schema.ts";
import { kvOf, layerOf, readHead } from "./nodes.ts";
import { at } from "./packed.ts";

export interface Cut {
  size: number;
  nodes: string[];
  edges: Edge[];
  /** Elements of the universe that are not drawn, and how many of them the page does not even list. */
  hidden: number;
  unlisted: number;
  /** Of a circuit of nodes: stored edges between drawn nodes. */
  edgesTotal: number | null;
}

export function listed(circuit: Circuit): number {
  return circuit.elements.length;
}

/** Reads `a9.h6->a10.h0<q>`; an edge into an MLP or the logits names no port. */
export function readEdge(name: string): { from: string; to: string; port: Edge["port"] } | null {
  const match = /^(.+?)->(.+?)(?:<(q|k|v|in)>)?$/.exec(name);
  return match ? { from: match[1], to: match[2], port: (match[3] as Edge["port"] | undefined) ?? "in" } : null;
}

const edgeLists = new WeakMap<Circuit, Edge[]>();

/** Elements of a circuit of edges, strongest first. */
function edgesOf(circuit: Circuit): Edge[] {
  let edges = edgeLists.get(circuit);
  if (!edges) {
    const marks = new Map((circuit.edges ?? []).map((edge) => [`${edge.from}->${edge.to}<${edge.port}>`, edge]));
    edges = circuit.elements.flatMap((name, i) => {
      const ends = readEdge(name);
      if (!ends) return [];
      const known = marks.get(`${ends.from}->${ends.to}<${ends.port}>`);
      const limits = circuit.low && circuit.high ? { low: at(circuit.low, i), high: at(circuit.high, i) } : {};
      return [{ ...known, ...ends, weight: at(circuit.weights, i), ...limits }];
    });
    edgeLists.set(circuit, edges);
  }
  return edges;
}

export interface Weighed {
  name: string;
  weight: number;
  low: number | null;
  high: number | null;
  rank: number;
}

/** The element's own entry in the ranking. */
export function weighed(circuit: Circuit, name: string): Weighed | null {
  const i = circuit.elements.indexOf(name);
  if (i < 0) return null;
  return {
    name,
    weight: at(circuit.weights, i),
    low: circuit.low ? at(circuit.low, i) : null,
    high: circuit.high ? at(circuit.high, i) : null,
    rank: i + 1,
  };
}

const ENDS = new Set(["embed", "logits"]);

/** Key/value heads that drawn query heads share: edges into keys and values end there. */
function sharedBy(nodes: string[], model: Model): string[] {
  return nodes.flatMap((name) => {
    const head = readHead(name);
    return head ? [`a${head.layer}.kv${kvOf(model, head.head)}`] : [];
  });
}

export function cut(circuit: Circuit, size: number, model: Model): Cut {
  const n = Math.max(0, Math.min(size, listed(circuit)));
  let nodes: string[], edges: Edge[];
  if (circuit.kind === "edges") {
    edges = edgesOf(circuit).slice(0, n);
    nodes = [...new Set(edges.flatMap((edge) => [edge.from, edge.to]))];
  } else {
    const kept = circuit.elements.slice(0, n);
    const inside = new Set([...kept, ...sharedBy(kept, model), ...ENDS]);
    edges = (circuit.edges ?? []).filter((edge) => inside.has(edge.from) && inside.has(edge.to));
    nodes = [...new Set([...kept, ...edges.flatMap((edge) => [edge.from, edge.to])])];
  }
  nodes.sort((a, b) => layerOf(a, model.n_layers) - layerOf(b, model.n_layers) || a.localeCompare(b, "en", { numeric: true }));
  return {
    size: n,
    nodes,
    edges,
    hidden: Math.max(0, circuit.universe - n),
    unlisted: Math.max(0, circuit.universe - listed(circuit)),
    edgesTotal: circuit.edges_total ?? null,
  };
}

export interface AtSize {
  mean: number;
  low: number | null;
  high: number | null;
  /** Sizes that were measured on either side; equal where the size itself was measured. */
  between: [number, number];
}

/** The curve whose ranking is that of the list: by magnitude. */
export function curveOf(circuit: Circuit): Curve | null {
  return circuit.curves.find((curve) => curve.ranking === "absolute") ?? null;
}

/** The stored value at a size, or on the straight line between its measured neighbours; null outside what was measured. */
export function faithfulnessAt(points: { size: number; mean: number; low?: number; high?: number }[], size: number): AtSize | null {
  const sorted = [...points].sort((a, b) => a.size - b.size);
  const below = sorted.filter((point) => point.size <= size).at(-1),
    above = sorted.find((point) => point.size >= size);
  if (!below || !above) return null;
  const share = above.size === below.size ? 0 : (size - below.size) / (above.size - below.size);
  const mixed = (a: number | undefined, b: number | undefined): number | null =>
    a === undefined || b === undefined ? null : a + (b - a) * share;
  return {
    mean: below.mean + (above.mean - below.mean) * share,
    low: mixed(below.low, above.low),
    high: mixed(below.high, above.high),
    between: [below.size, above.size],
  };
}

export function incoming<T extends Edge>(edges: T[], node: string): T[] {
  return edges.filter((edge) => edge.to === node).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
}

export function outgoing<T extends Edge>(edges: T[], node: string): T[] {
  return edges.filter((edge) => edge.from === node).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
}
