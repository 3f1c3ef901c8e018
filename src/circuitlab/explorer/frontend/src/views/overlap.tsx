/** How many of the strongest heads two score sets share, with the chance level. */
import { scoreLabel } from "../data/metrics.ts";
import type { Overlap, Score } from "../data/schema.ts";
import { lines } from "../scene/scene.ts";
import { useExplorer } from "../state/store.ts";
import { Absent, Badge } from "../ui/controls.tsx";
import { number, probability } from "../ui/format.ts";
import { Panel } from "../ui/panel.tsx";
import { reachOf, Whisker } from "../ui/whisker.tsx";
import { withInterval } from "./verdicts.tsx";

interface Props {
  a: Score;
  b: Score;
  k: number;
  overlap: Overlap | undefined;
  shared: string[];
}

export function OverlapFacts({ a, b, k, overlap, shared }: Props) {
  const { payload, state, set } = useExplorer();
  return (
    <div class="clx-overlap" data-overlap>
      <div class="clx-big">
        <span class="clx-label">Shared heads</span>
        <b class="clx-num">{overlap?.count ?? shared.length}</b> <span class="clx-soft">of {k}</span>
      </div>
      {overlap ? (
        <dl class="clx-facts">
          <div>
            <dt>by chance</dt>
            <dd>
              {number(overlap.expected)}
              {overlap.null_low !== undefined && overlap.null_high !== undefined && (
                <span class="clx-soft">
                  {" "}
                  [{number(overlap.null_low)}, {number(overlap.null_high)}]
                </span>
              )}
            </dd>
            {overlap.null_low !== undefined && overlap.null_high !== undefined && (
              <Whisker
                mean={overlap.count}
                reach={reachOf([{ mean: overlap.count }, { mean: overlap.null_high }, { mean: overlap.expected }])}
                band={{ low: overlap.null_low, high: overlap.null_high }}
                tick={overlap.expected}
                width={150}
              />
            )}
          </div>
          <div>
            <dt>p, corrected</dt>
            <dd>
              {probability(overlap.p_corrected)} <span class="clx-soft">(alone {probability(overlap.p)})</span>
            </dd>
          </div>
          {overlap.jaccard && (
            <div>
              <dt>Jaccard</dt>
              <dd>{withInterval(overlap.jaccard)}</dd>
            </div>
          )}
          {overlap.rank_correlation && (
            <div>
              <dt>rank correlation</dt>
              <dd>{withInterval(overlap.rank_correlation)}</dd>
            </div>
          )}
          <div class="clx-null">
            <dt>chance level</dt>
            <dd>{overlap.null}</dd>
          </div>
        </dl>
      ) : (
        <Absent what="Chance level" reason={payload.absent.overlap ?? `It was not computed for this pair; \`cl.compare\` measures it.`} />
      )}
      {shared.length > 0 && (
        <p class="clx-chips">
          {shared.map((name) => (
            <button
              key={name}
              type="button"
              class={`clx-chip clx-mono ${name === state.node ? "clx-on" : ""}`}
              onClick={() => set({ node: name })}
            >
              {name}
            </button>
          ))}
        </p>
      )}
      {a.units !== b.units && (
        <p class="clx-note">
          The two are in different units ({a.units}; {b.units}); ranks can be compared, values cannot.
        </p>
      )}
    </div>
  );
}

export function AllPairs() {
  const { payload, state, set, colours } = useExplorer();
  if (payload.overlap.length === 0) return null;
  const label = (id: string): string => {
    const score = payload.scores.find((one) => one.id === id);
    return score ? scoreLabel(payload, score) : id;
  };
  const rows = [...payload.overlap].sort((x, y) => x.p_corrected - y.p_corrected || y.count - x.count);
  return (
    <Panel
      name="overlaps"
      python={() => payload.provenance.python}
      title="All pairs"
      note="Shared heads of every pair of score sets on this page; p is corrected within its family: pairs of tasks by one method, of methods on one task, of models."
      class="clx-wide"
      scene={() =>
        lines(
          "All pairs",
          rows.map(
            (one) =>
              `${label(one.a)} and ${label(one.b)}: ${one.count} of ${one.k}, by chance ${number(one.expected)}, p ${probability(one.p_corrected)}`,
          ),
          colours.ink,
        )
      }
      rows={() => [
        ["a", "b", "k", "shared", "expected", "null low", "null high", "p", "p corrected", "jaccard"],
        ...rows.map((one) => [
          label(one.a),
          label(one.b),
          one.k,
          one.count,
          one.expected,
          one.null_low,
          one.null_high,
          one.p,
          one.p_corrected,
          one.jaccard?.mean,
        ]),
      ]}
    >
      <div class="clx-scroll" tabIndex={0} role="region" aria-label="Overlap of all pairs">
        <table class="clx-table">
          <thead>
            <tr>
              <th scope="col">A</th>
              <th scope="col">B</th>
              <th scope="col" class="clx-right">
                Shared
              </th>
              <th scope="col">Against chance</th>
              <th scope="col" class="clx-right">
                p, corrected
              </th>
              <th scope="col">Verdict</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((one) => (
              <tr key={`${one.a} ${one.b} ${one.k}`} class={one.a === state.a && one.b === state.b ? "clx-on" : ""}>
                <th scope="row">
                  <button type="button" class="clx-link" onClick={() => set({ a: one.a, b: one.b, k: one.k })}>
                    {label(one.a)}
                  </button>
                </th>
                <td>{label(one.b)}</td>
                <td class="clx-right clx-num">
                  {one.count} <span class="clx-soft">of {one.k}</span>
                </td>
                <td>
                  {one.null_low !== undefined && one.null_high !== undefined ? (
                    <Whisker
                      mean={one.count}
                      reach={reachOf(rows.flatMap((other) => [{ mean: other.count }, { mean: other.null_high ?? 0 }]))}
                      band={{ low: one.null_low, high: one.null_high }}
                      tick={one.expected}
                      width={140}
                    />
                  ) : (
                    <span class="clx-num">{number(one.expected)} expected</span>
                  )}
                </td>
                <td class="clx-right clx-num">{probability(one.p_corrected)}</td>
                <td>
                  {one.p_corrected <= payload.level && one.count > one.expected ? (
                    <Badge tone="accent">more than chance</Badge>
                  ) : (
                    <span class="clx-soft">not more than chance</span>
                  )}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </Panel>
  );
}
