/** Two sets of scores: what they share among their strongest heads. */
import { column, ranked } from "./metrics.ts";
import type { Dissociation, Model, Overlap, Payload, Score, Transfer } from "./schema.ts";

export function overlapsOf(payload: Payload, a: string, b: string): Overlap[] {
  return payload.overlap.filter((one) => (one.a === a && one.b === b) || (one.a === b && one.b === a)).sort((x, y) => x.k - y.k);
}

export function strongest(payload: Payload, model: Model, score: Score, k: number): string[] {
  const col = column(payload, model, `score:${score.id}`);
  return col
    ? ranked(model, col)
        .slice(0, k)
        .map((one) => one.name)
    : [];
}

export function transfersOf(payload: Payload, a: Score, b: Score): Transfer[] {
  const tasks = new Set([a.task, b.task]);
  return payload.transfer.filter((one) => one.model === a.model && one.method === a.method && tasks.has(one.from) && tasks.has(one.to));
}

export function dissociationOf(payload: Payload, a: Score, b: Score): Dissociation | null {
  const tasks = [a.task, b.task];
  return payload.dissociation.find((one) => one.model === a.model && tasks.includes(one.a) && tasks.includes(one.b)) ?? null;
}
