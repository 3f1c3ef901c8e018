/** Attention of one head on one prompt, from the sparse rows of the payload. */
import { raw, values } from "./packed.ts";
import type { Attention, Payload } from "./schema.ts";

export interface Pattern {
  tokens: number;
  /** weights[query * tokens + key]; 0 where the weight is below what is kept. */
  weights: Float32Array;
  kept: number;
  norms: Float32Array | null;
}

const offsets = new WeakMap<Attention, Uint32Array>();

/** Where every row starts in `keys` and `weights`: one number per (listed head, query), and the end. */
function starts(entry: Attention): Uint32Array {
  let result = offsets.get(entry);
  if (!result) {
    const counts = raw(entry.counts);
    result = new Uint32Array(counts.length + 1);
    for (let i = 0; i < counts.length; i++) result[i + 1] = result[i] + counts[i];
    offsets.set(entry, result);
  }
  return result;
}

/** Null where the page does not hold this head's rows. */
export function pattern(entry: Attention, head: string): Pattern | null {
  const place = entry.heads.indexOf(head);
  if (place < 0) return null;
  const tokens = entry.counts.shape[1];
  const where = starts(entry),
    keys = raw(entry.keys),
    stored = raw(entry.weights),
    scale = entry.weights.scale ?? 1;
  const weights = new Float32Array(tokens * tokens);
  const first = place * tokens;
  for (let query = 0; query < tokens; query++) {
    for (let i = where[first + query]; i < where[first + query + 1]; i++) weights[query * tokens + keys[i]] = stored[i] * scale;
  }
  const norms = entry.value_norms ? values(entry.value_norms).slice(first, first + tokens) : null;
  return { tokens, weights, kept: values(entry.kept)[place], norms };
}

/** Weights times the norm of what the head writes for the key, as a share of the row's total over the kept keys. */
export function weightedByValue(given: Pattern): Float32Array | null {
  if (!given.norms) return null;
  const { tokens, weights, norms } = given;
  const result = new Float32Array(weights.length);
  for (let query = 0; query < tokens; query++) {
    let total = 0;
    for (let key = 0; key < tokens; key++) total += result[query * tokens + key] = weights[query * tokens + key] * norms[key];
    if (total > 0) for (let key = 0; key < tokens; key++) result[query * tokens + key] /= total;
  }
  return result;
}

export function attentionOf(payload: Payload, model: string, task: string, pair: number, side: "clean" | "corrupt"): Attention | null {
  return payload.attention.find((one) => one.model === model && one.task === task && one.pair === pair && one.side === side) ?? null;
}

export function pairsWithAttention(payload: Payload, model: string, task: string): number[] {
  const pairs = payload.attention.filter((one) => one.model === model && one.task === task).map((one) => one.pair);
  return [...new Set(pairs)].sort((a, b) => a - b);
}
