/** What a reader can choose on this payload, as options of selects. */
import type { State } from "../state/state.ts";
import type { Option } from "../ui/controls.tsx";
import { methodTitle, modelTitle, scoreLabel, taskTitle } from "./metrics.ts";
import type { Model, Payload, Score } from "./schema.ts";

export function modelOptions(payload: Payload): Option[] {
  return payload.models.map((model) => ({ value: model.id, label: modelTitle(payload, model.id) }));
}

export function taskOptions(payload: Payload, model: Model): Option[] {
  const ids = [...new Set(payload.scores.filter((one) => one.model === model.id).map((one) => one.task ?? ""))];
  return ids.map((id) => ({ value: id, label: taskTitle(payload, id === "" ? undefined : id) }));
}

export function methodOptions(payload: Payload, state: State): Option[] {
  const names = [
    ...new Set(payload.scores.filter((one) => one.model === state.model && (one.task ?? "") === state.task).map((one) => one.method)),
  ];
  return names.map((name) => ({ value: name, label: methodTitle(payload, name) }));
}

export function markOptions(payload: Payload, state: State): Option[] {
  const marks = payload.scores
    .filter((one) => one.model === state.model && (one.task ?? "") === state.task && one.method === state.method)
    .map((one) => one.mark ?? "");
  return [...new Set(marks)].map((mark) => ({ value: mark, label: mark || "all positions" }));
}

/** Pairs of scores whose difference means something: same method, or same task and units. */
export function differences(payload: Payload, model: Model): [Score, Score][] {
  const own = payload.scores.filter((one) => sameShape(payload, model, one));
  const pairs: [Score, Score][] = [];
  for (const [i, a] of own.entries()) {
    for (const b of own.slice(i + 1)) {
      const differ = [a.model !== b.model, a.task !== b.task, a.method !== b.method, (a.mark ?? "") !== (b.mark ?? "")].filter(
        Boolean,
      ).length;
      if (differ === 1 && a.units === b.units) pairs.push([a, b]);
    }
  }
  return pairs.slice(0, 60);
}

export function sameShape(payload: Payload, model: Model, score: Score): boolean {
  const other = payload.models.find((one) => one.id === score.model);
  return (
    other !== undefined && other.n_layers === model.n_layers && other.n_heads === model.n_heads && other.n_kv_heads === model.n_kv_heads
  );
}

export function metricOptions(payload: Payload, model: Model): Option[] {
  const options: Option[] = payload.scores.some((one) => one.model === model.id)
    ? [{ value: "score", label: "Score of the task and method above" }]
    : [];
  for (const role of payload.roles.filter((one) => one.model === model.id))
    options.push({ value: `role:${role.name}`, label: role.title, group: "Role" });
  for (const [a, b] of differences(payload, model))
    options.push({ value: `diff:${a.id}|${b.id}`, label: differenceLabel(payload, a, b), group: "Difference" });
  return options;
}

function differenceLabel(payload: Payload, a: Score, b: Score): string {
  if (a.task !== b.task) return `${taskTitle(payload, a.task)} \u2212 ${taskTitle(payload, b.task)}, ${methodTitle(payload, a.method)}`;
  if (a.method !== b.method)
    return `${methodTitle(payload, a.method)} \u2212 ${methodTitle(payload, b.method)}, ${taskTitle(payload, a.task)}`;
  return `${scoreLabel(payload, a)} \u2212 ${scoreLabel(payload, b)}`;
}

export function axisOptions(payload: Payload, model: Model): Option[] {
  const options: Option[] = payload.scores
    .filter((one) => sameShape(payload, model, one))
    .map((one) => ({ value: `score:${one.id}`, label: scoreLabel(payload, one), group: "Score" }));
  for (const role of payload.roles.filter((one) => one.model === model.id))
    options.push({ value: `role:${role.name}`, label: role.title, group: "Role" });
  return options;
}

export function scoreOptions(payload: Payload): Option[] {
  return payload.scores.map((one) => ({ value: one.id, label: scoreLabel(payload, one) }));
}
