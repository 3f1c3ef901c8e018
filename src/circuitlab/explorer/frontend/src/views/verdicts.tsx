/** Can one believe what is shown? Task, self-checks and planted score, on every view. */
import type { Interval, Method, Model, Score } from "../data/schema.ts";
import { methodTitle, taskTitle } from "../data/metrics.ts";
import { scoreOf } from "../state/state.ts";
import { useExplorer } from "../state/store.ts";
import { Badge, withCode } from "../ui/controls.tsx";
import { measure, number, percent, sentence, words } from "../ui/format.ts";

export const withInterval = (value: Interval, as: (x: number) => string = number): string =>
  value.low !== undefined && value.high !== undefined ? `${as(value.mean)} [${as(value.low)}, ${as(value.high)}]` : as(value.mean);

export function Verdicts() {
  const { payload, state, model } = useExplorer();
  const score = scoreOf(payload, state);
  const task = payload.tasks.find((one) => one.id === state.task);
  const verdict = task?.verdicts.find((one) => one.model === model.id);
  const method = payload.methods.find((one) => one.name === state.method);
  return (
    <details
      class="clx-verdicts"
      onKeyDown={(event) => {
        if (event.key === "Escape" && event.currentTarget.open) {
          event.preventDefault();
          event.currentTarget.open = false;
        }
      }}
    >
      <summary>
        <Badges score={score} model={model} />
        <span class="clx-more">details</span>
      </summary>
      <div class="clx-verdict-list">
        {verdict && (
          <Line head={taskTitle(payload, state.task)}>
            {verdict.sentence} Accuracy {withInterval(verdict.accuracy, percent)}, chance {percent(verdict.chance)}, at least{" "}
            {percent(verdict.gate)} wanted; gap {withInterval(verdict.gap)}.
          </Line>
        )}
        {score?.warning && <Line head="Warning">{score.warning}</Line>}
        {score?.checks.map((check) => (
          <Line key={check.name} head={words(check.name)} ok={check.ok}>
            {check.sentence} <span class="clx-num clx-soft">{number(check.value)}</span>
          </Line>
        ))}
        {method && (
          <Line head={methodTitle(payload, method.name)}>
            {sentence(method.estimand)}. {sentence(method.sign)}.{" "}
            {method.planted ? (
              <>
                Where the circuit is known: {method.planted.grade}{" "}
                <span class="clx-soft">
                  {Object.entries(method.planted.measures)
                    .map(([name, value]) => `${words(name)} ${measure(value)}`)
                    .join(", ")}
                </span>
              </>
            ) : (
              withCode(payload.absent[`methods/${method.name}`] ?? "Its score on planted circuits is not on this page.")
            )}
          </Line>
        )}
        {score && (
          <Line head="Run">
            <Provenance score={score} />
          </Line>
        )}
      </div>
    </details>
  );
}

/** The verdicts of one set of scores, as they stand beside it. */
export function ScoreBadges({ score }: { score: Score }) {
  const { payload } = useExplorer();
  return (
    <p class="clx-badges">
      <Badges score={score} model={payload.models.find((one) => one.id === score.model)!} />
    </p>
  );
}

/** The grade in two words; the details hold the whole sentence. */
function planted({ grade, measures }: NonNullable<Method["planted"]>): string {
  return typeof measures.auroc_mean === "number"
    ? `planted AUROC ${number(measures.auroc_mean, 2)}`
    : `planted: ${grade.replace(/\.$/, "")}`;
}

function Badges({ score, model }: { score: Score | undefined; model: Model }) {
  const { payload, state } = useExplorer();
  const task = score ? score.task : state.task || undefined;
  const verdict = payload.tasks.find((one) => one.id === task)?.verdicts.find((one) => one.model === model.id);
  const method = payload.methods.find((one) => one.name === (score?.method ?? state.method));
  const failed = score?.checks.filter((one) => !one.ok) ?? [];
  return (
    <>
      {verdict ? (
        <Badge tone={verdict.ready ? "good" : "bad"}>{verdict.ready ? "task ready" : "task not ready"}</Badge>
      ) : (
        <Badge tone="plain">{task ? "task not judged" : "no task: weights alone"}</Badge>
      )}
      {score && (
        <Badge tone={failed.length ? "bad" : score.checks.length ? "good" : "plain"}>
          {score.checks.length
            ? failed.length
              ? `${failed.length} of ${score.checks.length} self-checks failed`
              : `${score.checks.length} self-checks passed`
            : "no self-checks"}
        </Badge>
      )}
      {method?.planted ? (
        <Badge tone="accent" title={method.planted.grade}>
          {planted(method.planted)}
        </Badge>
      ) : (
        <Badge tone="plain">method not graded here</Badge>
      )}
      {model.edited && <Badge tone="bad">edited model</Badge>}
    </>
  );
}

function Line({ head, ok, children }: { head: string; ok?: boolean; children: preact.ComponentChildren }) {
  return (
    <p>
      <b>{head}</b>
      {ok === undefined ? "" : ok ? " (passed)" : " (failed)"}: {typeof children === "string" ? withCode(children) : children}
    </p>
  );
}

export function Provenance({ score }: { score: Score }) {
  const { created, seconds, seed, prompts, dropped } = score.provenance;
  const left = Object.entries(dropped ?? {}).map(([why, n]) => `${n} rows left out (${why})`);
  return (
    <>
      <code>{score.run}</code>{" "}
      {[
        `${score.n_pairs} pairs`,
        score.metric && `${words(score.metric)} in ${score.units}`,
        `seed ${seed}`,
        created && created.slice(0, 10),
        seconds !== undefined && `${number(seconds)} s`,
        `prompts ${prompts.slice(0, 8)}`,
        ...left,
      ]
        .filter(Boolean)
        .join(", ")}
      .{" "}
      {Object.entries(score.params)
        .map(([name, value]) => `${words(name)} ${typeof value === "string" ? value : JSON.stringify(value)}`)
        .join(", ")}
    </>
  );
}
