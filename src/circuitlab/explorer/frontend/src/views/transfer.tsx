/** Does one task's circuit do the other task, and do the two dissociate? */
import { dissociationsOf, transfersOf } from "../data/compare.ts";
import { modelTitle, taskTitle } from "../data/metrics.ts";
import type { Payload, Score } from "../data/schema.ts";
import { transferPython } from "../data/snippets.ts";
import { lines } from "../scene/scene.ts";
import { useExplorer } from "../state/store.ts";
import { Absent } from "../ui/controls.tsx";
import { interval, measure, number, probability, words } from "../ui/format.ts";
import { Panel } from "../ui/panel.tsx";
import { reachOf, Whisker } from "../ui/whisker.tsx";
import { withInterval } from "./verdicts.tsx";

export function TransferFacts({ a, b }: { a: Score; b: Score }) {
  const { payload, colours } = useExplorer();
  const cells = transfersOf(payload, a, b),
    apart = dissociationsOf(payload, a, b),
    several = a.model !== b.model;
  const reach = reachOf([
    { mean: 1 },
    ...cells.map((one) => one.faithfulness),
    ...cells.flatMap((one) => (one.random ? [one.random] : [])),
  ]);
  const name = (id: string): string => taskTitle(payload, id);
  const said = cells.map(
    (one) =>
      `${several ? `${modelTitle(payload, one.model)}: ` : ""}${name(one.from)} circuit on ${name(one.to)}: ${withInterval(one.faithfulness)}`,
  );
  return (
    <Panel
      name="transfer"
      title="Transfer and dissociation"
      python={() => transferPython(payload, a, b)}
      note="Faithfulness of one task's circuit on the other task. Grey: random circuits of the same size."
      scene={() => lines("Transfer", [...said, ...apart.map((one) => one.sentence)], colours.ink)}
      rows={() => [
        ["model", "circuit of", "run on", "size", "faithfulness", "low", "high", "random", "random low", "random high", "p", "p corrected"],
        ...cells.map((one) => [
          modelTitle(payload, one.model),
          name(one.from),
          name(one.to),
          one.size,
          one.faithfulness.mean,
          one.faithfulness.low,
          one.faithfulness.high,
          one.random?.mean,
          one.random?.low,
          one.random?.high,
          one.p,
          one.p_corrected,
        ]),
      ]}
    >
      {cells.length > 0 ? (
        <div class="clx-scroll" tabIndex={0} role="region" aria-label="Transfer between the two tasks">
          <table class="clx-table">
            <thead>
              <tr>
                {several && <th scope="col">Model</th>}
                <th scope="col">Circuit of</th>
                <th scope="col">Run on</th>
                <th scope="col">Interval</th>
                <th scope="col" class="clx-right">
                  Faithfulness
                </th>
                <th scope="col" class="clx-right">
                  p, corrected
                </th>
              </tr>
            </thead>
            <tbody>
              {cells.map((one) => (
                <tr key={`${one.model} ${one.method} ${one.from} ${one.to}`} class={one.from !== one.to ? "clx-on" : ""}>
                  {several && <td>{modelTitle(payload, one.model)}</td>}
                  <th scope="row">{name(one.from)}</th>
                  <td>{name(one.to)}</td>
                  <td>
                    <Whisker
                      mean={one.faithfulness.mean}
                      low={one.faithfulness.low}
                      high={one.faithfulness.high}
                      reach={reach}
                      band={one.random ?? null}
                    />
                  </td>
                  <td class="clx-right clx-num">
                    {number(one.faithfulness.mean)}
                    <div class="clx-soft clx-small">{interval(one.faithfulness.low, one.faithfulness.high)}</div>
                  </td>
                  <td class="clx-right clx-num">{one.p_corrected === undefined ? "not tested" : probability(one.p_corrected)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : (
        <Absent what="Transfer" reason={absence(payload, a, b, payload.absent.transfer)} />
      )}
      <h3>Dissociation</h3>
      {apart.map((one) => (
        <div key={one.model}>
          <p>
            {several && <b>{modelTitle(payload, one.model)}: </b>}
            {one.sentence}
          </p>
          <p class="clx-note">
            {Object.entries(one.measures)
              .map(([key, value]) => `${words(key)} ${measure(value)}`)
              .join(", ")}
          </p>
        </div>
      ))}
      {apart.length === 0 && <Absent reason={absence(payload, a, b, payload.absent.dissociation)} />}
    </Panel>
  );
}

/** Why two scores have no transfer or dissociation: both are between two tasks. */
function absence(payload: Payload, a: Score, b: Score, stored: string | undefined): string {
  if (a.task === undefined || b.task === undefined) return "Scores from weights alone have no task to run on.";
  if (a.task === b.task) return `A and B are of the same task, ${taskTitle(payload, a.task)}: choose two tasks.`;
  return stored ?? "It was not measured for these two tasks.";
}
