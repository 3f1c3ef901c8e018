/** State as the text after `#`, and as a file. Only what differs from the start is written. */
import { STATE_VERSION, type NodeGroup, type State } from "./state.ts";

const TEXT = [
  "view",
  "model",
  "task",
  "method",
  "mark",
  "map",
  "metric",
  "x",
  "y",
  "node",
  "side",
  "circuit",
  "port",
  "a",
  "b",
  "theme",
] as const;
const NUMBER = ["top", "pair", "query", "key", "size", "k", "edges"] as const;
const SWITCH = ["weighted", "first"] as const;
const CHOICES: Partial<Record<keyof State, readonly string[]>> = {
  view: ["heads", "circuit", "compare", "about"],
  map: ["grid", "scatter", "list"],
  side: ["clean", "corrupt", "difference"],
  theme: ["auto", "light", "dark"],
  port: ["", "q", "k", "v", "in"],
};

export function toHash(state: State, start: State): string {
  const params = new URLSearchParams();
  for (const name of TEXT) if (state[name] !== start[name]) params.set(name, state[name]);
  for (const name of NUMBER) if (state[name] !== start[name]) params.set(name, String(state[name]));
  for (const name of SWITCH) if (state[name] !== start[name]) params.set(name, state[name] ? "1" : "0");
  if (state.pins.length) params.set("pins", state.pins.join(","));
  if (state.brush.length === 4) params.set("brush", state.brush.map((value) => Number(value.toPrecision(6))).join(","));
  if (state.groups.length) params.set("groups", JSON.stringify(state.groups));
  if (Object.keys(state.labels).length) params.set("labels", JSON.stringify(state.labels));
  return params.toString();
}

export function fromHash(hash: string): Partial<State> {
  const params = new URLSearchParams(hash.replace(/^#/, ""));
  const given: Record<string, unknown> = {};
  for (const [name, value] of params) given[name] = value;
  for (const name of NUMBER) if (name in given) given[name] = Number(given[name]);
  for (const name of SWITCH) if (name in given) given[name] = given[name] === "1";
  if ("pins" in given) given.pins = String(given.pins).split(",").filter(Boolean);
  if ("brush" in given) given.brush = String(given.brush).split(",").map(Number);
  for (const name of ["groups", "labels"]) if (name in given) given[name] = parsed(String(given[name]));
  return checked(given);
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

/** Keeps what has the right shape. */
export function checked(given: Record<string, unknown>): Partial<State> {
  const state: Record<string, unknown> = {};
  for (const name of TEXT) {
    const value = given[name],
      choices = CHOICES[name];
    if (typeof value === "string" && (!choices || choices.includes(value))) state[name] = value;
  }
  for (const name of NUMBER) if (Number.isInteger(given[name]) && (given[name] as number) >= -1) state[name] = given[name];
  for (const name of SWITCH) if (typeof given[name] === "boolean") state[name] = given[name];
  if (isTexts(given.pins)) state.pins = given.pins;
  if (Array.isArray(given.brush) && [0, 4].includes(given.brush.length) && given.brush.every((value) => Number.isFinite(value)))
    state.brush = given.brush;
  if (Array.isArray(given.groups) && given.groups.every(isGroup))
    state.groups = given.groups.map(({ name, nodes, open }: NodeGroup) => ({ name, nodes, ...(open === true ? { open } : {}) }));
  if (given.labels && typeof given.labels === "object" && isTexts(Object.values(given.labels))) state.labels = { ...given.labels };
  return state as Partial<State>;
}

const isTexts = (value: unknown): value is string[] => Array.isArray(value) && value.every((one) => typeof one === "string");
const isGroup = (value: unknown): value is NodeGroup =>
  typeof value === "object" && value !== null && typeof (value as NodeGroup).name === "string" && isTexts((value as NodeGroup).nodes);

export function toFile(state: State, page: string): string {
  return `${JSON.stringify({ schema: STATE_VERSION, page, state }, null, 1)}\n`;
}

/** The state of a file, or the reason why it is none. */
export function fromFile(data: unknown): Partial<State> {
  const given = data as { schema?: unknown; state?: unknown } | null;
  if (
    typeof given !== "object" ||
    given === null ||
    given.schema !== STATE_VERSION ||
    typeof given.state !== "object" ||
    given.state === null
  ) {
    throw new Error(`The file is not a saved view (${STATE_VERSION}).`);
  }
  return checked(given.state as Record<string, unknown>);
}
