/** Names of nodes: a9.h6 a query head, a9.kv2 a key/value head, m3 an MLP. */
import type { Model } from "./schema.ts";

export interface HeadName {
  layer: number;
  head: number;
}

export const headName = (layer: number, head: number): string => `a${layer}.h${head}`;

/** Reads a9.h6, 9.6 and L9H6. */
export function readHead(text: string): HeadName | null {
  const match = /^(?:a(\d+)\.?h(\d+)|l(\d+)\.?h(\d+)|(\d+)\.(\d+))$/i.exec(text.trim());
  if (!match) return null;
  const [layer, head] = match
    .slice(1)
    .filter((part) => part !== undefined)
    .map(Number);
  return { layer, head };
}

export function readMlp(text: string): number | null {
  const match = /^m(\d+)$/i.exec(text.trim());
  return match ? Number(match[1]) : null;
}

export function kvOf(model: Model, head: number): number {
  return Math.floor(head / (model.n_heads / model.n_kv_heads));
}

/** Whether the model has such a node, so that a name typed or linked to can be refused. */
export function isNode(model: Model, name: string): boolean {
  const head = readHead(name);
  if (head) return head.layer < model.n_layers && head.head < model.n_heads;
  const mlp = readMlp(name);
  return mlp !== null && mlp < model.n_layers;
}

/** The layer at which a node writes; embeddings stand before the first, logits after the last. */
export function layerOf(name: string, layers: number): number {
  if (name === "embed") return -1;
  if (name === "logits") return layers;
  const match = /^[amr](\d+)/.exec(name);
  return match ? Number(match[1]) : layers;
}

/** A node without the position that it is at: a9.h6@S2 is a9.h6. */
export const baseOf = (name: string): string => name.split("@")[0];

/** Whether a circuit of the model can have such a node: also key/value heads, the embedding and the logits. */
export function isCircuitNode(model: Model, name: string): boolean {
  const base = baseOf(name),
    kv = /^a(\d+)\.kv(\d+)$/.exec(base);
  if (kv) return Number(kv[1]) < model.n_layers && Number(kv[2]) < model.n_kv_heads;
  return base === "embed" || base === "logits" || isNode(model, base);
}
