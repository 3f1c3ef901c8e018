/** One head on one pair: clean, corrupt and their difference, on one scale. */
import { attentionOf, pattern, weightedByValue, type Pattern } from "./attention.ts";
import type { Pair, Payload, Why } from "./schema.ts";
import type { Side } from "../state/state.ts";

export interface Sides {
  tokens: number;
  clean: Float32Array | null;
  corrupt: Float32Array | null;
  difference: Float32Array | null;
  patterns: { clean: Pattern | null; corrupt: Pattern | null };
  /** Largest value of clean and corrupt: the end of the scale of all three. */
  limit: number;
  weighted: boolean;
}

export interface Wanted {
  model: string;
  task: string;
  pair: number;
  head: string;
  weighted: boolean;
  first: boolean;
}

/** Null where the page holds neither side of the pair for this head. */
export function sidesOf(payload: Payload, wanted: Wanted): Sides | null {
  const one = (side: "clean" | "corrupt"): Pattern | null => {
    const entry = attentionOf(payload, wanted.model, wanted.task, wanted.pair, side);
    return entry ? pattern(entry, wanted.head) : null;
  };
  const patterns = { clean: one("clean"), corrupt: one("corrupt") };
  const some = patterns.clean ?? patterns.corrupt;
  if (!some) return null;
  const weighted = wanted.weighted && [patterns.clean, patterns.corrupt].every((side) => !side || side.norms !== null);
  const shown = (side: Pattern | null): Float32Array | null => (side ? (weighted ? weightedByValue(side) : side.weights) : null);
  const clean = shown(patterns.clean),
    corrupt = shown(patterns.corrupt);
  const difference = clean && corrupt && clean.length === corrupt.length ? clean.map((value, i) => value - corrupt[i]) : null;
  let limit = 0;
  for (const side of [clean, corrupt]) {
    side?.forEach((value, i) => {
      if (wanted.first || i % some.tokens !== 0) limit = Math.max(limit, value);
    });
  }
  return { tokens: some.tokens, clean, corrupt, difference, patterns, limit: limit || 1, weighted };
}

export function tokensOf(pair: Pair, side: Side): string[] {
  return side === "corrupt" ? pair.corrupt : pair.clean;
}

/** Names of the marks at every position. */
export function marksOf(pair: Pair): Map<number, string> {
  const marks = new Map<number, string>();
  for (const [name, position] of Object.entries(pair.marks))
    marks.set(position, marks.has(position) ? `${marks.get(position)} ${name}` : name);
  return marks;
}

export function whyOf(payload: Payload, wanted: Wanted, query: number, key: number): Why | null {
  const card = payload.cards.find((one) => one.model === wanted.model && one.head === wanted.head);
  return (
    card?.why?.entries.find((one) => one.task === wanted.task && one.pair === wanted.pair && one.query === query && one.key === key) ?? null
  );
}

export function whysOf(payload: Payload, wanted: Wanted): Why[] {
  const card = payload.cards.find((one) => one.model === wanted.model && one.head === wanted.head);
  return card?.why?.entries.filter((one) => one.task === wanted.task && one.pair === wanted.pair) ?? [];
}
