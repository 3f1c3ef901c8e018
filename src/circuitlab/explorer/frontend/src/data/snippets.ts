/** Python that makes a view: the snippets of the payload, with the head and the pair of the view put in. */
import { scoreOf, type State } from "../state/state.ts";
import type { Column } from "./metrics.ts";
import type { Model, Payload, Score } from "./schema.ts";

export function mapPython(payload: Payload, state: State, column: Column | null): string {
  if (column?.role)
    return `import circuitlab as cl\n\n${loadPython(payload, column.role.model)}\nroles = cl.roles(model, roles=[${quoted(column.role.name)}])\nprint(roles)`;
  if (column?.key.startsWith("diff:")) {
    const [a, b] = column.key
      .slice(5)
      .split("|")
      .map((id) => payload.scores.find((one) => one.id === id));
    return `# first\n${a?.python ?? ""}\n\n# second\n${b?.python ?? ""}`;
  }
  const score = column?.score ?? scoreOf(payload, state);
  return score ? `${score.python}\ncl.figures.head_heatmap(scores).show()` : payload.provenance.python;
}

export function headPython(model: Model, node: string): string {
  return model.python.replaceAll("{head}", node);
}

export function attentionPython(payload: Payload, state: State): string {
  const prompts = payload.prompts.find((one) => one.model === state.model && one.task === state.task);
  return prompts ? prompts.python.replaceAll("{head}", state.node).replaceAll("{pair}", String(state.pair)) : payload.provenance.python;
}

/** Transfer between the tasks of two scores, in the model of each. */
export function transferPython(payload: Payload, a: Score, b: Score): string {
  const tasks = [...new Set([a.task, b.task])].map((id) => payload.tasks.find((one) => one.id === id)?.name ?? "");
  const measured = [...new Map([a, b].map((one) => [one.model, one])).values()].map(
    (one) => `${loadPython(payload, one.model)}\nprint(cl.transfer(model, [${tasks.map(quoted).join(", ")}], ${quoted(one.method)}))`,
  );
  return `import circuitlab as cl\n\n${measured.join("\n\n")}`;
}

function loadPython(payload: Payload, id: string): string {
  const model = payload.models.find((one) => one.id === id);
  return `model = cl.load_model(${quoted(model?.name ?? id)})${model?.edited ? "  # with the interventions of this run: model.edited(...)" : ""}`;
}

const quoted = (text: string): string => JSON.stringify(text);
