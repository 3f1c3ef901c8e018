/** Every number per head as one kind of column: scores, roles, and differences of two scores. */
import { headName } from "./nodes.ts";
import { raw, values } from "./packed.ts";
import type { Model, Payload, Role, Score } from "./schema.ts";
import { words } from "../ui/format.ts";

export interface Column {
  key: string;
  label: string;
  units: string;
  /** Whether 0 is the middle: scores that help or hinder, and differences. */
  diverging: boolean;
  mean: Float32Array;
  low: Float32Array | null;
  high: Float32Array | null;
  q: Float32Array | null;
  /** Per head: 1 distinguishable, 0 not, 2 not known. */
  distinct: Uint8Array;
  /** In words: what "distinguishable" means here. */
  test: string;
  /** MLP scores on the same scale, if there are any. */
  mlps: { mean: Float32Array; low: Float32Array | null; high: Float32Array | null; distinct: Uint8Array } | null;
  /** Values are of key/value heads and stand at every query head that shares one. */
  shared: boolean;
  score?: Score;
  role?: Role;
}

const cache = new WeakMap<Payload, Map<string, Column | null>>();

export function taskTitle(payload: Payload, id: string | undefined): string {
  if (id === undefined) return "weights alone";
  return payload.tasks.find((task) => task.id === id)?.title ?? id;
}

export function methodTitle(payload: Payload, name: string): string {
  return payload.methods.find((method) => method.name === name)?.title ?? words(name);
}

/** Name of a model, with what tells it from others of that name. */
export function modelTitle(payload: Payload, id: string): string {
  const model = payload.models.find((one) => one.id === id);
  if (!model) return id;
  const others = payload.models.filter((one) => one !== model && one.name === model.name);
  const edited = model.edited ? " (edited)" : "";
  return others.some((one) => one.edited === model.edited) ? `${model.id}${edited}` : `${model.name}${edited}`;
}

export function scoreLabel(payload: Payload, score: Score): string {
  const model = payload.models.length > 1 ? `${modelTitle(payload, score.model)}: ` : "";
  const mark = score.mark ? ` at ${score.mark}` : "";
  return `${model}${taskTitle(payload, score.task)}, ${methodTitle(payload, score.method)}${mark}`;
}

/** `score:ID`, `role:NAME`, `diff:ID|ID` or `kv:ID`; null where the payload has no such thing. */
export function column(payload: Payload, model: Model, key: string): Column | null {
  let known = cache.get(payload);
  if (!known) cache.set(payload, (known = new Map()));
  const name = `${model.id} ${key}`;
  let result = known.get(name);
  if (result === undefined) known.set(name, (result = computed(payload, model, key)));
  return result;
}

function computed(payload: Payload, model: Model, key: string): Column | null {
  const cut = key.indexOf(":");
  const kind = key.slice(0, cut),
    rest = key.slice(cut + 1);
  if (kind === "score") {
    const score = payload.scores.find((one) => one.id === rest);
    return score ? scoreColumn(payload, model, score, key) : null;
  }
  if (kind === "role") {
    const role = payload.roles.find((one) => one.model === model.id && one.name === rest);
    return role ? roleColumn(model, role, key) : null;
  }
  if (kind === "diff") {
    const [a, b] = rest.split("|").map((id) => payload.scores.find((one) => one.id === id));
    return a && b ? differenceColumn(payload, model, a, b, key) : null;
  }
  return null;
}

function tested(q: Float32Array | null, level: number, length: number): Uint8Array {
  const distinct = new Uint8Array(length).fill(2);
  if (q) for (let i = 0; i < length; i++) distinct[i] = Number.isNaN(q[i]) ? 2 : q[i] <= level ? 1 : 0;
  return distinct;
}

function scoreColumn(payload: Payload, model: Model, score: Score, key: string): Column | null {
  const part = score.parts.heads ?? score.parts.kv_heads;
  if (!part) return null;
  const shared = !score.parts.heads;
  const spread = shared
    ? (array: Float32Array): Float32Array => spreadOverGroup(model, array)
    : (array: Float32Array): Float32Array => array;
  const mean = spread(values(part.mean));
  const q = part.q ? spread(values(part.q)) : null;
  const mlps = score.parts.mlps;
  return {
    key,
    label: scoreLabel(payload, score),
    units: score.units,
    diverging: true,
    shared,
    score,
    mean,
    q,
    low: part.low ? spread(values(part.low)) : null,
    high: part.high ? spread(values(part.high)) : null,
    distinct: tested(q, payload.level, mean.length),
    test: q
      ? `not distinguishable from 0 (q above ${payload.level}, t-test over pairs, corrected over the map)`
      : "no test: these scores have no prompt pairs",
    mlps: mlps
      ? {
          mean: values(mlps.mean),
          low: mlps.low ? values(mlps.low) : null,
          high: mlps.high ? values(mlps.high) : null,
          distinct: tested(mlps.q ? values(mlps.q) : null, payload.level, model.n_layers),
        }
      : null,
  };
}

/** (layer, kv_head) to (layer, head): every query head shows the value of the key/value head that it shares. */
export function spreadOverGroup(model: Model, array: Float32Array): Float32Array {
  const group = model.n_heads / model.n_kv_heads;
  const wide = new Float32Array(model.n_layers * model.n_heads);
  for (let i = 0; i < wide.length; i++) {
    const layer = Math.floor(i / model.n_heads),
      head = i % model.n_heads;
    wide[i] = array[layer * model.n_kv_heads + Math.floor(head / group)];
  }
  return wide;
}

function roleColumn(model: Model, role: Role, key: string): Column {
  const shared = role.per === "kv_head";
  const spread = shared
    ? (array: Float32Array): Float32Array => spreadOverGroup(model, array)
    : (array: Float32Array): Float32Array => array;
  const mean = spread(values(role.value));
  const earned = spread(Float32Array.from(raw(role.earned)));
  return {
    key,
    label: role.title,
    units: role.units,
    diverging: mean.some((value) => value < 0),
    shared,
    role,
    mean,
    low: role.low ? spread(values(role.low)) : null,
    high: role.high ? spread(values(role.high)) : null,
    q: spread(values(role.q)),
    distinct: Uint8Array.from(earned, (value) => (value ? 1 : 0)),
    test: `role not earned (${role.reason})`,
    mlps: null,
  };
}

/** Pairs of two tasks are not the same pairs, so the interval of a difference adds the squares of the two half-widths. */
function differenceColumn(payload: Payload, model: Model, a: Score, b: Score, key: string): Column | null {
  const first = scoreColumn(payload, model, a, key),
    second = scoreColumn(payload, model, b, key);
  if (!first || !second || first.mean.length !== second.mean.length) return null;
  const n = first.mean.length;
  const mean = new Float32Array(n),
    low = new Float32Array(n),
    high = new Float32Array(n);
  const limits = first.low && first.high && second.low && second.high;
  const distinct = new Uint8Array(n).fill(2);
  for (let i = 0; i < n; i++) {
    mean[i] = first.mean[i] - second.mean[i];
    if (!limits) continue;
    low[i] = mean[i] - Math.hypot(first.mean[i] - first.low![i], second.high![i] - second.mean[i]);
    high[i] = mean[i] + Math.hypot(first.high![i] - first.mean[i], second.mean[i] - second.low![i]);
    if (!Number.isNaN(low[i])) distinct[i] = low[i] > 0 || high[i] < 0 ? 1 : 0;
  }
  const same = a.units === b.units;
  return {
    key,
    label: `${scoreLabel(payload, a)} minus ${scoreLabel(payload, b)}`,
    units: same ? a.units : `${a.units} and ${b.units}: not the same units`,
    diverging: true,
    shared: first.shared || second.shared,
    mean,
    low: limits ? low : null,
    high: limits ? high : null,
    q: null,
    distinct,
    test: "0 is inside the 95 % interval of the difference (not corrected for the number of heads)",
    mlps: null,
  };
}

export interface Ranked {
  index: number;
  name: string;
  value: number;
  rank: number;
}

/** Heads by magnitude (scores, differences) or by value (roles); heads without a value come last and have no rank. */
export function ranking(model: Model, col: Column): Ranked[] {
  const size = (value: number): number => (col.diverging ? Math.abs(value) : value);
  const all = Array.from(col.mean, (value, index) => ({
    index,
    value,
    rank: 0,
    name: headName(Math.floor(index / model.n_heads), index % model.n_heads),
  }));
  const known = all.filter((one) => !Number.isNaN(one.value)).sort((a, b) => size(b.value) - size(a.value) || a.index - b.index);
  known.forEach((one, i) => (one.rank = i + 1));
  return known;
}

const rankCache = new WeakMap<Column, Ranked[]>();

export function ranked(model: Model, col: Column): Ranked[] {
  let result = rankCache.get(col);
  if (!result) rankCache.set(col, (result = ranking(model, col)));
  return result;
}

export function rankOf(model: Model, col: Column, index: number): number | null {
  return ranked(model, col).find((one) => one.index === index)?.rank ?? null;
}
