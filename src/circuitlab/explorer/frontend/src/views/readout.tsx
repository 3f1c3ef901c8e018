/** One cell in numbers: both sides, their difference, the value's norm, and why it attends there. */
import { readMlp, readHead } from "../data/nodes.ts";
import type { Pair, Why } from "../data/schema.ts";
import { type Sides, type Wanted, whyOf } from "../data/sides.ts";
import { useExplorer } from "../state/store.ts";
import { number, percent, signed, tokenText } from "../ui/format.ts";
import { reachOf, Whisker } from "../ui/whisker.tsx";

interface Props {
  sides: Sides;
  pair: Pair;
  focus: { query: number; key: number };
  wanted: Wanted;
}

/** Without a chosen key: the key of the row with the most weight in either prompt. */
function strongest(sides: Sides, query: number): number {
  let best = 0,
    most = -1;
  for (let key = 0; key <= query; key++) {
    const i = query * sides.tokens + key,
      value = Math.max(sides.clean?.[i] ?? 0, sides.corrupt?.[i] ?? 0);
    if (value > most) {
      most = value;
      best = key;
    }
  }
  return best;
}

export function Readout({ sides, pair, focus, wanted }: Props) {
  const { payload } = useExplorer();
  const query = focus.query,
    key = focus.key >= 0 && focus.key <= query ? focus.key : strongest(sides, query);
  const i = query * sides.tokens + key;
  const why = whyOf(payload, wanted, query, key);
  const value = (side: Float32Array | null): string => (side ? number(side[i]) : "not on this page");
  const norm = sides.patterns.clean?.norms?.[key],
    kept = sides.patterns.clean?.kept;
  return (
    <div class="clx-readout" data-readout>
      <p>
        <span class="clx-token">{tokenText(pair.clean[query] ?? "")}</span> →{" "}
        <span class="clx-token">{tokenText(pair.clean[key] ?? "")}</span>{" "}
        <span class="clx-soft">
          position {query} to {key}
          {sides.weighted ? ", weighted by value norm" : ""}
        </span>
      </p>
      <dl class="clx-facts">
        <div>
          <dt>clean</dt>
          <dd>{value(sides.clean)}</dd>
        </div>
        <div>
          <dt>corrupt</dt>
          <dd>{value(sides.corrupt)}</dd>
        </div>
        <div>
          <dt>difference</dt>
          <dd>{sides.difference ? signed(sides.difference[i]) : "not known"}</dd>
        </div>
        {norm !== undefined && (
          <div>
            <dt>value norm</dt>
            <dd>{number(norm)}</dd>
          </div>
        )}
        {kept !== undefined && (
          <div>
            <dt>mass kept</dt>
            <dd title="Of each query at most 8 keys are stored">{percent(kept)}</dd>
          </div>
        )}
      </dl>
      {why && <WhyThere why={why} />}
    </div>
  );
}

function WhyThere({ why }: { why: Why }) {
  const { set, model } = useExplorer();
  const node = (name: string) => {
    const known = (readHead(name)?.layer ?? readMlp(name) ?? Infinity) < model.n_layers;
    return known ? (
      <button type="button" class="clx-link clx-mono" onClick={() => set({ node: name })}>
        {name}
      </button>
    ) : (
      <span class="clx-mono">{name}</span>
    );
  };
  const terms = [...why.terms].sort((a, b) => Math.abs(b.term) - Math.abs(a.term)).slice(0, 8);
  const reach = reachOf([
    ...terms.map((one) => ({ mean: one.term })),
    ...why.query_loadings.map((one) => ({ mean: one.share })),
    ...why.key_loadings.map((one) => ({ mean: one.share })),
  ]);
  return (
    <div class="clx-why">
      <h4>Why it attends there</h4>
      <p class="clx-note">
        Score {signed(why.score)} before the softmax{why.against ? `, against ${why.against}` : ""}: each writer at the query times each
        writer at the key.
      </p>
      <table class="clx-table">
        <thead>
          <tr>
            <th scope="col">Query side</th>
            <th scope="col">Key side</th>
            <th scope="col">Term</th>
            <th scope="col" class="clx-right">
              Value
            </th>
          </tr>
        </thead>
        <tbody>
          {terms.map((one, i) => (
            <tr key={i}>
              <td>{node(one.query_writer)}</td>
              <td>{node(one.key_writer)}</td>
              <td>
                <Whisker mean={one.term} reach={reach} width={90} />
              </td>
              <td class="clx-right clx-num">{signed(one.term)}</td>
            </tr>
          ))}
          {why.query_loadings.map((one, i) => (
            <tr key={`q${i}`}>
              <td>{node(one.writer)}</td>
              <td class="clx-soft">all</td>
              <td>
                <Whisker mean={one.share} reach={reach} width={90} />
              </td>
              <td class="clx-right clx-num">{signed(one.share)}</td>
            </tr>
          ))}
          {why.key_loadings.map((one, i) => (
            <tr key={`k${i}`}>
              <td class="clx-soft">all</td>
              <td>{node(one.writer)}</td>
              <td>
                <Whisker mean={one.share} reach={reach} width={90} />
              </td>
              <td class="clx-right clx-num">{signed(one.share)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
