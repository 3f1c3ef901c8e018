/** What the page is made of: models, tasks, methods, runs, citations, and the Python and the command that make it. */
import { methodTitle, taskTitle } from "../data/metrics.ts";
import { lines } from "../scene/scene.ts";
import { useExplorer } from "../state/store.ts";
import { Absent, Badge } from "../ui/controls.tsx";
import { sentence, words } from "../ui/format.ts";
import { CodeBlock, Panel, type Rows } from "../ui/panel.tsx";
import { Provenance } from "./verdicts.tsx";

export function AboutView() {
  const { payload, colours } = useExplorer();
  const rows = (): Rows => [
    ["run", "model", "task", "method", "mark", "pairs", "units", "created"],
    ...payload.scores.map((one) => [one.run, one.model, one.task, one.method, one.mark, one.n_pairs, one.units, one.provenance.created]),
  ];
  const bibtex = Object.values(payload.citations).join("\n\n");
  return (
    <Panel
      name="about"
      title="About this page"
      scene={() => lines("About", [payload.title, payload.provenance.command], colours.ink)}
      rows={rows}
      python={() => payload.provenance.python}
      class="clx-wide clx-about"
    >
      <h3>Make it again</h3>
      <CodeBlock code={payload.provenance.command} label="Command" />
      <CodeBlock code={payload.provenance.python} label="Python" />
      <h3>Models</h3>
      {payload.models.map((model) => (
        <p key={model.id}>
          <b>{model.name}</b> {model.edited && <Badge tone="bad">edited</Badge>} {model.family}, {model.n_layers} layers, {model.n_heads}{" "}
          heads and {model.n_kv_heads} key/value heads to a layer, {model.dtype}.{" "}
          <span class="clx-soft">
            {Object.entries(model.identity)
              .filter(([, hash]) => hash !== "")
              .map(([name, hash]) => `${words(name)} ${hash.slice(0, 12)}`)
              .join(", ")}
          </span>
        </p>
      ))}
      <h3>Tasks</h3>
      {payload.tasks.map((task) => (
        <div key={task.id} class="clx-entry">
          <p>
            <b>{task.title}</b> <span class="clx-mono clx-soft">{task.id}</span> {task.description}{" "}
            <span class="clx-soft">
              variant {task.variant || "none"}, version {task.version}
              {task.cite?.length ? `, ${task.cite.join(", ")}` : ""}
            </span>
          </p>
          {task.verdicts.map((verdict) => (
            <p key={verdict.model}>
              <Badge tone={verdict.ready ? "good" : "bad"}>{verdict.ready ? "ready" : "not ready"}</Badge> {verdict.sentence}
            </p>
          ))}
          {task.verdicts.length === 0 && <Absent reason="It was not judged whether a model can do this task." />}
        </div>
      ))}
      <h3>Methods</h3>
      {payload.methods.map((method) => (
        <p key={method.name} class="clx-entry">
          <b>{method.title}</b> {sentence(method.estimand)}. {sentence(method.sign)}. {method.additive ? "Scores sum to the whole. " : ""}
          {method.citation && <span class="clx-soft">{method.citation}. </span>}
          {method.planted ? <Badge tone="accent">planted: {method.planted.grade}</Badge> : <Badge tone="plain">not graded here</Badge>}
        </p>
      ))}
      <h3>Runs</h3>
      {payload.scores.map((score) => (
        <p key={score.id} class="clx-entry">
          <b>
            {taskTitle(payload, score.task)}, {methodTitle(payload, score.method)}
          </b>{" "}
          <Provenance score={score} />
        </p>
      ))}
      {Object.keys(payload.absent).length > 0 && (
        <>
          <h3>Not on this page</h3>
          {Object.entries(payload.absent).map(([what, reason]) => (
            <Absent key={what} what={words(what)} reason={reason} />
          ))}
        </>
      )}
      <h3>Cite</h3>
      <CodeBlock code={bibtex} label="BibTeX" />
      <p class="clx-note">
        {Object.entries(payload.provenance.versions)
          .map(([name, version]) => `${name} ${version}`)
          .join(", ")}
        {payload.provenance.study ? `; study ${payload.provenance.study}` : ""}
      </p>
    </Panel>
  );
}
