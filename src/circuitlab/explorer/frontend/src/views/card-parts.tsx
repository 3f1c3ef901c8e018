/** The measured parts of a head's card. */
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { kvOf, readHead } from "../data/nodes.ts";
import { taskTitle } from "../data/metrics.ts";
import { at, raw } from "../data/packed.ts";
import type { Card, Model, Payload, Role, Spot } from "../data/schema.ts";
import { useExplorer } from "../state/store.ts";
import { Absent, Badge } from "../ui/controls.tsx";
import { interval, number, probability, signed, tokenText, words } from "../ui/format.ts";
import { reachOf, Whisker } from "../ui/whisker.tsx";

export function Section({
  title,
  note,
  children,
  closed,
}: {
  title: string;
  note?: string;
  children: ComponentChildren;
  closed?: boolean;
}) {
  return (
    <details class="clx-section" open={!closed}>
      <summary>
        <h3>{title}</h3>
      </summary>
      {note && <p class="clx-note">{note}</p>}
      {children}
    </details>
  );
}

function Reasons({ absent }: { absent: Record<string, string> }) {
  return (
    <>
      {Object.entries(absent).map(([what, reason]) => (
        <Absent key={what} what={what} reason={reason} />
      ))}
    </>
  );
}

export function Token({ text, tone }: { text: string; tone?: "helps" | "hinders" }) {
  return <span class={`clx-token ${tone ? `clx-${tone}` : ""}`}>{tokenText(text)}</span>;
}

export interface RoleOf {
  role: Role;
  node: string;
  value: number;
  low: number | null;
  high: number | null;
  chance: number;
  q: number;
  earned: boolean;
  rank: number;
  of: number;
}

export function rolesOf(payload: Payload, model: Model, node: string): RoleOf[] {
  const head = readHead(node);
  if (!head) return [];
  const limit = (value: number): number | null => (Number.isNaN(value) ? null : value);
  return payload.roles
    .filter((role) => role.model === model.id)
    .map((role) => {
      const kv = kvOf(model, head.head);
      const index = role.per === "kv_head" ? head.layer * model.n_kv_heads + kv : head.layer * model.n_heads + head.head;
      const size = role.value.shape.reduce((product, n) => product * n, 1),
        value = at(role.value, index);
      let rank = 1,
        of = 0;
      for (let i = 0; i < size; i++) {
        const other = at(role.value, i);
        if (!Number.isNaN(other)) {
          of += 1;
          if (other > value) rank += 1;
        }
      }
      return {
        role,
        node: role.per === "kv_head" ? `a${head.layer}.kv${kv}` : node,
        value,
        low: role.low ? limit(at(role.low, index)) : null,
        high: role.high ? limit(at(role.high, index)) : null,
        chance: at(role.chance, index),
        q: at(role.q, index),
        earned: raw(role.earned)[index] === 1,
        rank,
        of,
      };
    });
}

/** Roles shown at first: those earned, and up to this many in the order of the head's rank. */
const FEW = 6;

export function RolePart({ roles }: { roles: RoleOf[] }) {
  const { payload, set, state } = useExplorer();
  const [all, setAll] = useState(false);
  const ordered = [...roles].sort((a, b) => Number(b.earned) - Number(a.earned) || a.rank / a.of - b.rank / b.of);
  const least = Math.max(FEW, ordered.filter((one) => one.earned).length);
  const reasons = Object.entries(payload.absent).filter(([key]) => key.startsWith("roles/"));
  return (
    <Section title="Roles" note="Grey: what chance gives, up to its 95th percentile. Dashed: the least value that earns the role.">
      {roles.length > 0 && (
        <div class="clx-scroll" tabIndex={0} role="region" aria-label="Roles of the head">
          <table class="clx-table">
            <thead>
              <tr>
                <th scope="col">Role</th>
                <th scope="col">Value</th>
                <th scope="col" class="clx-right">
                  Mean
                </th>
                <th scope="col" class="clx-right">
                  Rank
                </th>
                <th scope="col" class="clx-right clx-q">
                  q
                </th>
                <th scope="col">Verdict</th>
              </tr>
            </thead>
            <tbody>
              {ordered.slice(0, all ? roles.length : least).map((one) => (
                <tr key={one.role.name} class={state.metric === `role:${one.role.name}` ? "clx-on" : ""}>
                  <th scope="row">
                    <button
                      type="button"
                      class="clx-link"
                      title={`${one.role.estimand} Null: ${one.role.null}`}
                      onClick={() => set({ metric: `role:${one.role.name}`, map: state.map === "scatter" ? "grid" : state.map })}
                    >
                      {one.role.title}
                    </button>
                    {one.node.includes("kv") && <div class="clx-soft clx-small clx-mono">{one.node}</div>}
                  </th>
                  <td>
                    <Whisker
                      mean={one.value}
                      low={one.low}
                      high={one.high}
                      reach={reachOf([
                        { mean: one.value, low: one.low, high: one.high },
                        { mean: one.role.threshold },
                        { mean: one.chance },
                      ])}
                      band={{ low: 0, high: one.chance }}
                      tick={one.role.threshold}
                      sure={one.earned}
                      width={110}
                    />
                  </td>
                  <td class="clx-right clx-num">
                    {number(one.value)}
                    <div class="clx-soft clx-small">{interval(one.low, one.high) || one.role.units}</div>
                  </td>
                  <td class="clx-right clx-num">
                    {one.rank}
                    <div class="clx-soft clx-small">of {one.of}</div>
                  </td>
                  <td class="clx-right clx-num clx-q">{probability(one.q)}</td>
                  <td>{one.earned ? <Badge tone="accent">earned</Badge> : <span class="clx-soft">not earned</span>}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {roles.length > least && (
        <button type="button" class="clx-button" aria-expanded={all} onClick={() => setAll(!all)}>
          {all ? "Show fewer roles" : `Show all ${roles.length} roles`}
        </button>
      )}
      {roles.length === 0 && <Absent reason={payload.absent.roles ?? "No roles were measured for this page."} />}
      {reasons.map(([key, reason]) => (
        <Absent key={key} what={words(key.slice(6))} reason={reason} />
      ))}
    </Section>
  );
}

export function WrittenPart({ card }: { card: Card }) {
  if (!card.tokens) return null;
  return (
    <Section
      title="What it writes"
      note="From the weights alone: for a token that it reads, the tokens of the vocabulary that it raises and lowers most."
    >
      {card.tokens.entries.map((one) => (
        <div key={one.token_id} class="clx-entry">
          <p>
            Reads <Token text={one.token} />{" "}
            <span class="clx-soft">
              rank of the token itself {one.rank.toLocaleString("en-GB")} of {one.vocabulary.toLocaleString("en-GB")}; other tokens{" "}
              {number(one.null_low)} to {number(one.null_high)}, median {number(one.null_median)}; q {probability(one.q)}
            </span>
          </p>
          <p class="clx-tokens">
            <span class="clx-soft">raises</span>{" "}
            {one.promoted.map((token, i) => (
              <Token key={i} text={token} tone="helps" />
            ))}
          </p>
          <p class="clx-tokens">
            <span class="clx-soft">lowers</span>{" "}
            {one.suppressed.map((token, i) => (
              <Token key={i} text={token} tone="hinders" />
            ))}
          </p>
        </div>
      ))}
      <Reasons absent={card.tokens.absent} />
    </Section>
  );
}

export function KnockoutPart({ card }: { card: Card }) {
  const { payload } = useExplorer();
  if (!card.knockout) return null;
  return (
    <Section title="Without it">
      {card.knockout.entries.map((one, i) => (
        <p key={i} class="clx-entry">
          {taskTitle(payload, one.task)}: {words(one.metric)} <b class="clx-num">{signed(one.change.mean)}</b>{" "}
          <span class="clx-num clx-soft">{interval(one.change.low, one.change.high)}</span> {one.units}{" "}
          <span class="clx-soft">
            ({number(one.clean.mean)} with the head, {number(one.without.mean)} when its output is replaced: {words(one.how)}; {one.n_pairs}{" "}
            pairs)
          </span>
        </p>
      ))}
      <Reasons absent={card.knockout.absent} />
    </Section>
  );
}

export function ContinuationPart({ card }: { card: Card }) {
  if (!card.continuations) return null;
  return (
    <Section title="Text with and without it" closed>
      {card.continuations.entries.map((one, i) => (
        <dl key={i} class="clx-entry clx-terms">
          <dt>Prompt</dt>
          <dd class="clx-text">{one.prompt}</dd>
          <dt>With</dt>
          <dd class="clx-text">{one.with_head}</dd>
          <dt>Without</dt>
          <dd class="clx-text">
            {one.same ? "the same" : one.without} <span class="clx-soft">({words(one.how)})</span>
          </dd>
        </dl>
      ))}
      <Reasons absent={card.continuations.absent} />
    </Section>
  );
}

export function SimilarPart({ card }: { card: Card }) {
  const { set } = useExplorer();
  if (!card.similar) return null;
  const how = { roles: "by roles", ov: "by what they write" };
  return (
    <Section title="Similar heads">
      {(["roles", "ov"] as const).map((by) => {
        const some = card.similar!.entries.filter((one) => one.by === by);
        return (
          some.length > 0 && (
            <div key={by} class="clx-chips">
              <span class="clx-soft">{how[by]}</span>
              {some.map((one) => (
                <button
                  key={one.head}
                  type="button"
                  class="clx-chip clx-mono"
                  title={`cosine ${number(one.similarity)}, rank ${one.rank} of ${one.heads}`}
                  onClick={() => set({ node: one.head })}
                >
                  {one.head} <span class="clx-soft">{number(one.similarity, 2)}</span>
                </button>
              ))}
            </div>
          )
        );
      })}
      <Reasons absent={card.similar.absent} />
    </Section>
  );
}

export function TextPart({ card }: { card: Card }) {
  const { payload } = useExplorer();
  const text = card.on_text;
  if (!text) {
    const reason = payload.absent["cards/on_text"];
    return reason ? (
      <Section title="On natural text" closed>
        <Absent reason={reason} />
      </Section>
    ) : null;
  }
  return (
    <Section
      title="On natural text"
      closed
      note={`${text.n_passages} passages, ${text.n_positions.toLocaleString("en-GB")} positions. A head's behaviour in a task is seldom all that it does.`}
    >
      <p>
        Mean direct effect on the true next token <b class="clx-num">{signed(text.effect)}</b>{" "}
        <span class="clx-num clx-soft">{interval(text.low, text.high)}</span> logits; strongest of {text.n_heads} heads at{" "}
        {text.wins.toLocaleString("en-GB")} positions.
      </p>
      <h4>Strongest</h4>
      {text.top.map((spot, i) => (
        <SpotLine key={i} spot={spot} />
      ))}
      {text.deciles.map((decile) => (
        <div key={decile.number}>
          <h4>
            Decile {decile.number}{" "}
            <span class="clx-soft clx-num">
              activation {number(decile.low)} to {number(decile.high)}, effect {signed(decile.effect)}
            </span>
          </h4>
          {decile.spots.map((spot, i) => (
            <SpotLine key={i} spot={spot} />
          ))}
        </div>
      ))}
    </Section>
  );
}

function SpotLine({ spot }: { spot: Spot }) {
  const attended = spot.attended.map((entry) => `${tokenText(String(entry[1]))} ${number(Number(entry[2]), 2)}`).join(", ");
  return (
    <p class="clx-entry clx-text">
      {spot.before.join("")}
      <mark>{spot.token}</mark> <span class="clx-soft">then</span> {tokenText(spot.following)}{" "}
      <span class="clx-soft clx-num">
        effect {signed(spot.effect)}; looks at {attended}
      </span>
    </p>
  );
}
