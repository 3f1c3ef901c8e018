/** Every score of one node, and its value on every pair. */
import { kvOf, readHead, readMlp } from "./nodes.ts";
import { at } from "./packed.ts";
import { methodTitle, taskTitle } from "./metrics.ts";
import type { Model, Part, Payload, Score } from "./schema.ts";

export interface NodeScore {
  score: Score;
  what: string;
  node: string;
  mean: number;
  low: number | null;
  high: number | null;
  q: number | null;
  rank: number;
  of: number;
}

interface ScoreEntry {
  part: Part;
  index: number;
  node: string;
}

/** Where a node stands in a score: its own entry, or that of the key/value head that it shares. */
function entryOf(model: Model, score: Score, node: string): ScoreEntry | null {
  const head = readHead(node);
  if (head && score.parts.heads) return { part: score.parts.heads, index: head.layer * model.n_heads + head.head, node };
  if (head && score.parts.kv_heads) {
    const kv = kvOf(model, head.head);
    return { part: score.parts.kv_heads, index: head.layer * model.n_kv_heads + kv, node: `a${head.layer}.kv${kv}` };
  }
  const layer = readMlp(node);
  return layer !== null && score.parts.mlps ? { part: score.parts.mlps, index: layer, node } : null;
}

const known = (value: number): number | null => (Number.isNaN(value) ? null : value);

export function scoresOf(payload: Payload, model: Model, node: string): NodeScore[] {
  return payload.scores
    .filter((score) => score.model === model.id)
    .flatMap((score) => {
      const where = entryOf(model, score, node);
      if (!where) return [];
      const { part, index } = where,
        mean = at(part.mean, index);
      const size = part.mean.shape.reduce((product, n) => product * n, 1);
      let rank = 1,
        of = 0;
      for (let i = 0; i < size; i++) {
        const value = at(part.mean, i);
        if (Number.isNaN(value)) continue;
        of += 1;
        if (Math.abs(value) > Math.abs(mean)) rank += 1;
      }
      return [
        {
          score,
          node: where.node,
          mean,
          low: part.low ? known(at(part.low, index)) : null,
          high: part.high ? known(at(part.high, index)) : null,
          q: part.q ? known(at(part.q, index)) : null,
          rank,
          of,
          what: `${taskTitle(payload, score.task)} \u00b7 ${methodTitle(payload, score.method)}${score.mark ? ` at ${score.mark}` : ""}`,
        },
      ];
    });
}

/** The score on every pair; null where the page has none. */
export function perPair(model: Model, score: Score, node: string): Float32Array | null {
  const where = entryOf(model, score, node);
  if (!where?.part.pairs) return null;
  const [n, ...rest] = where.part.pairs.shape;
  const stride = rest.reduce((product, size) => product * size, 1);
  return Float32Array.from({ length: n }, (_, pair) => at(where.part.pairs!, pair * stride + where.index));
}
