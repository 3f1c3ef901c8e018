/** The card of one node: causal scores of every method, every pair, roles, and what else was measured. */
import { perPair, scoresOf, type NodeScore } from "../data/node-scores.ts";
import { column } from "../data/metrics.ts";
import { headName, kvOf, readHead, readMlp } from "../data/nodes.ts";
import { headPython } from "../data/snippets.ts";
import { stack, lines, type Scene } from "../scene/scene.ts";
import { scoreOf } from "../state/state.ts";
import { useExplorer } from "../state/store.ts";
import { Absent, Badge, Icon } from "../ui/controls.tsx";
import { useWidth } from "../ui/figure.tsx";
import { count, interval, probability, signed } from "../ui/format.ts";
import { Panel, type Rows } from "../ui/panel.tsx";
import { reachOf, Whisker } from "../ui/whisker.tsx";
import { ContinuationPart, KnockoutPart, RolePart, SimilarPart, TextPart, WrittenPart, rolesOf, Section } from "./card-parts.tsx";
import { forestScene } from "./forest.ts";
import { togglePin } from "./map.tsx";
import { Strip, stripScene } from "./strip.tsx";

export function CardPanel() {
  const explorer = useExplorer();
  const { payload, state, model, set, colours } = explorer;
  const [box, width] = useWidth<HTMLDivElement>(440);
  const node = state.node,
    head = readHead(node);
  const scores = scoresOf(payload, model, node);
  const current = scoreOf(payload, state);
  const own = scores.find((one) => one.score.id === current?.id);
  const pairs = current ? perPair(model, current, node) : null;
  const card = payload.cards.find((one) => one.model === model.id && one.head === node);
  const roles = head ? rolesOf(payload, model, node) : [];
  const pinned = state.pins.includes(node);
  if (!node)
    return (
      <Panel name="card" title="No head chosen" scene={() => lines("Card", [], colours.ink)} rows={() => []}>
        <p class="clx-note">
          Choose a head in the map, or press <kbd>/</kbd> and type its name.
        </p>
      </Panel>
    );
  const scene = (): Scene =>
    stack(node, [
      lines(node, [`${node}, ${model.name}`], colours.ink, 15),
      forestScene(
        scores.map((one) => ({ label: one.what, ...one, group: one.score.units })),
        colours,
        560,
      ),
      ...(pairs && own ? [stripScene(pairs, 560, colours, state.pair, own, own.score.units)] : []),
    ]);
  return (
    <Panel
      name="card"
      title={node}
      note={<Whereabouts node={node} />}
      scene={scene}
      rows={() => cardRows(scores, roles, pairs)}
      python={() => headPython(model, node)}
      tools={
        head && (
          <button
            type="button"
            class={`clx-button ${pinned ? "clx-on" : ""}`}
            aria-pressed={pinned}
            onClick={() => set({ pins: togglePin(state.pins, node) })}
          >
            <Icon name="pin" />
            <span>{pinned ? "Pinned" : "Pin"}</span>
          </button>
        )
      }
    >
      <div ref={box} class="clx-card">
        {roles.some((one) => one.earned) && (
          <div class="clx-chips">
            {roles
              .filter((one) => one.earned)
              .map((one) => (
                <Badge key={one.role.name} tone="accent" title={one.role.reason}>
                  {one.role.title}
                </Badge>
              ))}
          </div>
        )}
        <Section
          title="What it does to the answer"
          note={`Positive helps the answer. Hollow dots: cannot be told from 0 (q, corrected over all heads, is above ${payload.level}).`}
        >
          {scores.length ? (
            <Causal scores={scores} />
          ) : (
            <Absent reason={payload.absent.scores ?? `No method on this page scores ${node}.`} />
          )}
        </Section>
        <Section title="On every pair" note={own ? `${own.what}. Choose a dot to see that pair${head ? "'s attention" : ""}.` : undefined}>
          {pairs && own ? (
            <Strip
              values={pairs}
              width={Math.max(260, width)}
              colours={colours}
              pair={state.pair}
              units={own.score.units}
              mean={own}
              onPick={(pair) => set({ pair })}
            />
          ) : (
            <Absent
              reason={
                current && !current.task
                  ? "These scores are from weights alone: there are no pairs."
                  : "The page has no per-pair scores of this node for the chosen task and method."
              }
            />
          )}
        </Section>
        {head && <RolePart roles={roles} />}
        {head &&
          (card ? (
            <>
              <WrittenPart card={card} />
              <KnockoutPart card={card} />
              <ContinuationPart card={card} />
              <TextPart card={card} />
              <SimilarPart card={card} />
            </>
          ) : (
            <Section title="More of this head">
              <Absent
                reason={
                  payload.absent[`cards/${node}`] ??
                  payload.absent.cards ??
                  `The page holds the full card of ${count(payload.cards.length, "head")}, and not of this one.`
                }
              />
            </Section>
          ))}
      </div>
    </Panel>
  );
}

function Whereabouts({ node }: { node: string }) {
  const { model, payload, state, set } = useExplorer();
  const head = readHead(node),
    layer = head?.layer ?? readMlp(node);
  const shown = column(payload, model, `score:${scoreOf(payload, state)?.id ?? ""}`);
  const place = head
    ? `Head ${head.head} of layer ${layer}; keys and values of a${layer}.kv${kvOf(model, head.head)}`
    : `MLP of layer ${layer}`;
  const group = model.n_heads / model.n_kv_heads,
    first = head ? kvOf(model, head.head) * group : 0;
  const mates =
    head && group > 1 ? Array.from({ length: group }, (_, i) => headName(head.layer, first + i)).filter((one) => one !== node) : [];
  return (
    <>
      {place}
      {shown?.shared && head ? ", which the scores are of" : ""}
      {mates.length > 0 && " and of "}
      {mates.map((mate, i) => (
        <>
          {i > 0 && ", "}
          <button key={mate} type="button" class="clx-link clx-mono" onClick={() => set({ node: mate })}>
            {mate}
          </button>
        </>
      ))}
    </>
  );
}

export function Causal({ scores }: { scores: NodeScore[] }) {
  const { state, payload, set } = useExplorer();
  const current = scoreOf(payload, state);
  const reaches = new Map<string, ReturnType<typeof reachOf>>();
  for (const one of scores)
    if (!reaches.has(one.score.units))
      reaches.set(one.score.units, reachOf(scores.filter((other) => other.score.units === one.score.units)));
  return (
    <div class="clx-scroll" tabIndex={0} role="region" aria-label="Scores by task and method">
      <table class="clx-table">
        <thead>
          <tr>
            <th scope="col">Task and method</th>
            <th scope="col">Interval</th>
            <th scope="col" class="clx-right">
              Score
            </th>
            <th scope="col" class="clx-right">
              Rank
            </th>
            <th scope="col" class="clx-right clx-q">
              q
            </th>
          </tr>
        </thead>
        <tbody>
          {scores.map((one) => (
            <tr key={one.score.id} class={one.score.id === current?.id ? "clx-on" : ""}>
              <th scope="row">
                <button
                  type="button"
                  class="clx-link"
                  onClick={() => set({ task: one.score.task ?? "", method: one.score.method, mark: one.score.mark ?? "" })}
                >
                  {one.what}
                </button>
              </th>
              <td>
                <Whisker
                  mean={one.mean}
                  low={one.low}
                  high={one.high}
                  reach={reaches.get(one.score.units)!}
                  sure={one.q === null || one.q <= payload.level}
                />
              </td>
              <td class="clx-right clx-num" title={one.score.units}>
                {signed(one.mean)}
                <div class="clx-soft clx-small">{interval(one.low, one.high) || "no interval"}</div>
              </td>
              <td class="clx-right clx-num">
                {one.rank}
                <div class="clx-soft clx-small">of {one.of}</div>
              </td>
              <td class="clx-right clx-num clx-q">{one.q === null ? "none" : probability(one.q)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {reaches.size > 1 && <p class="clx-note">Rows of the same units ({[...reaches.keys()].join("; ")}) share a scale.</p>}
    </div>
  );
}

function cardRows(scores: NodeScore[], roles: ReturnType<typeof rolesOf>, pairs: Float32Array | null): Rows {
  const rows: Rows = [["kind", "what", "value", "low", "high", "q", "rank", "of", "units", "run"]];
  for (const one of scores)
    rows.push(["score", one.what, one.mean, one.low, one.high, one.q, one.rank, one.of, one.score.units, one.score.run]);
  for (const one of roles)
    rows.push([
      "role",
      one.role.title,
      one.value,
      one.low,
      one.high,
      one.q,
      one.rank,
      one.of,
      one.role.units,
      one.earned ? "earned" : "not earned",
    ]);
  pairs?.forEach((value, pair) => rows.push(["pair", `pair ${pair}`, value]));
  return rows;
}
