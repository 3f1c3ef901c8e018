/** What the reader sees, as plain data: one object for all views, that fits in a link and in a file. */
import { isCircuitNode, isNode, readHead } from "../data/nodes.ts";
import type { Model, Payload, Score } from "../data/schema.ts";
import { listed } from "../data/circuits.ts";

export const STATE_VERSION = "circuitlab.explorer-state/1";

export type View = "heads" | "circuit" | "compare" | "about";
export type MapKind = "grid" | "scatter" | "list";
export type Side = "clean" | "corrupt" | "difference";
export type ThemeChoice = "auto" | "light" | "dark";
export interface NodeGroup {
  name: string;
  nodes: string[];
  /** Whether its nodes are drawn one by one; otherwise the group is one box. */
  open?: boolean;
}

export interface State {
  view: View;
  model: string;
  task: string;
  method: string;
  mark: string;
  map: MapKind;
  /** What the map shows: `score` follows task and method; `role:NAME`; `diff:ID|ID`. */
  metric: string;
  x: string;
  y: string;
  brush: number[];
  top: number;
  node: string;
  pins: string[];
  pair: number;
  side: Side;
  weighted: boolean;
  first: boolean;
  /** Locked cell of the attention matrix; -1 where nothing is locked. */
  query: number;
  key: number;
  circuit: string;
  size: number;
  port: string;
  /** How many of the strongest edges are drawn. */
  edges: number;
  groups: NodeGroup[];
  labels: Record<string, string>;
  a: string;
  b: string;
  k: number;
  theme: ThemeChoice;
}

/** Scores of a task and method; of several marks, the first unless one is named. */
export function scoreOf(payload: Payload, state: Pick<State, "model" | "task" | "method" | "mark">): Score | undefined {
  const fits = payload.scores.filter((one) => one.model === state.model && (one.task ?? "") === state.task && one.method === state.method);
  return fits.find((one) => (one.mark ?? "") === state.mark) ?? fits[0];
}

export function modelOf(payload: Payload, state: Pick<State, "model">): Model {
  return payload.models.find((one) => one.id === state.model) ?? payload.models[0];
}

/** The state a reader starts with: the first scores, their strongest head is left to the views. */
export function initial(payload: Payload): State {
  const model = payload.models[0];
  const score = payload.scores.find((one) => one.model === model.id);
  const second = payload.scores.find((one) => one !== score && one.method === score?.method) ?? payload.scores.find((one) => one !== score);
  const circuit = payload.circuits.find((one) => one.task === score?.task && one.method === score?.method) ?? payload.circuits[0];
  return {
    view: "heads",
    model: model.id,
    task: score?.task ?? "",
    method: score?.method ?? "",
    mark: score?.mark ?? "",
    map: "grid",
    metric: score || payload.roles.length === 0 ? "score" : `role:${payload.roles[0].name}`,
    x: score ? `score:${score.id}` : "",
    y: second ? `score:${second.id}` : score ? `score:${score.id}` : "",
    brush: [],
    top: 20,
    node: "",
    pins: [],
    pair: 0,
    side: "clean",
    weighted: false,
    first: true,
    query: -1,
    key: -1,
    circuit: circuit?.id ?? "",
    size: circuit ? Math.min(circuit.size, listed(circuit)) : 0,
    port: "",
    edges: 60,
    groups: [],
    labels: {},
    a: score?.id ?? "",
    b: second?.id ?? score?.id ?? "",
    k: 0,
    theme: "auto",
  };
}

/** Which column of numbers the map shows. */
export function metricKey(payload: Payload, state: State): string {
  if (state.metric !== "score") return state.metric;
  const score = scoreOf(payload, state);
  return score ? `score:${score.id}` : "";
}

/** A change with its consequences: another task takes its circuit and its first pair with it. */
export function changed(payload: Payload, state: State, change: Partial<State>): State {
  const next = { ...state, ...change };
  if (next.model !== state.model || next.task !== state.task || next.method !== state.method) {
    const score = scoreOf(payload, next);
    if (score && change.mark === undefined) next.mark = score.mark ?? "";
    if (change.circuit === undefined) {
      const circuit =
        payload.circuits.find((one) => one.model === next.model && one.task === next.task && one.method === next.method) ??
        payload.circuits.find((one) => one.model === next.model && one.task === next.task);
      if (circuit) {
        next.circuit = circuit.id;
        next.size = Math.min(circuit.size, listed(circuit));
      }
    }
    if (next.task !== state.task && change.pair === undefined) {
      next.pair = 0;
      next.query = -1;
      next.key = -1;
    }
  }
  if (change.pair !== undefined && change.query === undefined && change.pair !== state.pair) {
    next.query = -1;
    next.key = -1;
  }
  if (change.a !== undefined || change.b !== undefined) next.k = change.k ?? 0;
  return next;
}

/** What was saved or linked, on this payload: unknown names are dropped, and said. */
export function restored(payload: Payload, saved: Partial<State>): { state: State; dropped: string[] } {
  const start = initial(payload);
  const dropped: string[] = [];
  const keep = { ...saved };
  const check = (name: keyof State, ok: boolean): void => {
    if (keep[name] !== undefined && !ok) {
      dropped.push(`${name} ${JSON.stringify(keep[name])}`);
      delete keep[name];
    }
  };
  const ids = new Set(payload.scores.map((one) => one.id));
  check(
    "model",
    payload.models.some((one) => one.id === keep.model),
  );
  check("task", keep.task === "" || payload.tasks.some((one) => one.id === keep.task));
  check(
    "method",
    payload.scores.some((one) => one.method === keep.method),
  );
  check("circuit", keep.circuit === "" || payload.circuits.some((one) => one.id === keep.circuit));
  check("a", keep.a === "" || ids.has(keep.a ?? ""));
  check("b", keep.b === "" || ids.has(keep.b ?? ""));
  const model = modelOf(payload, { model: keep.model ?? start.model });
  check("node", keep.node === "" || isNode(model, keep.node ?? ""));
  if (keep.pins) {
    const pins = keep.pins.filter((pin) => readHead(pin) && isNode(model, pin));
    if (pins.length < keep.pins.length) dropped.push(`${keep.pins.length - pins.length} pinned heads`);
    keep.pins = pins;
  }
  const groups = (keep.groups ?? []).map((group) => ({ ...group, nodes: group.nodes.filter((name) => isCircuitNode(model, name)) }));
  const labels = Object.entries(keep.labels ?? {}).filter(([name]) => isCircuitNode(model, name));
  const lost =
    (keep.groups ?? []).reduce((sum, group, i) => sum + group.nodes.length - groups[i].nodes.length, 0) +
    Object.keys(keep.labels ?? {}).length -
    labels.length;
  if (lost) dropped.push(`${lost} names of nodes in groups and labels`);
  if (keep.groups) keep.groups = groups.filter((group) => group.nodes.length > 0);
  if (keep.labels) keep.labels = Object.fromEntries(labels);
  return { state: { ...start, ...keep }, dropped };
}
