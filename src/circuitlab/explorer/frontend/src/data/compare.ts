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

/** Circuits of the two tasks on the two tasks, in the models and by the methods of the two scores. */
export function transfersOf(payload: Payload, a: Score, b: Score): Transfer[] {
  const tasks = new Set([a.task, b.task]);
  return payload.transfer.filter(
    (one) => [a, b].some((score) => one.model === score.model && one.method === score.method) && tasks.has(one.from) && tasks.has(one.to),
  );
}

export function dissociationsOf(payload: Payload, a: Score, b: Score): Dissociation[] {
  const tasks = [a.task, b.task];
  return payload.dissociation.filter((one) => [a.model, b.model].includes(one.model) && tasks.includes(one.a) && tasks.includes(one.b));
}
