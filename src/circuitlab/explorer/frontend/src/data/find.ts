/** Finder: heads by name, by the reader's label, by role, by tokens that they write, and by tokens that they look at. */
import { pattern } from "./attention.ts";
import { column, ranked } from "./metrics.ts";
import { baseOf, headName, readHead, readMlp } from "./nodes.ts";
import type { Model, Payload } from "./schema.ts";
import { number, signed, tokenText } from "../ui/format.ts";

export interface Hit {
  node: string;
  why: string;
}

const MOST = 30;
/** The least attention weight by which a head is found for a token, and the number of heads of one token. */
const LOOKS = 0.1,
  LOOKERS = 8;

/** What of the view the finder also searches. */
export interface Around {
  task: string;
  labels: Record<string, string>;
}

export function find(payload: Payload, model: Model, query: string, key: string, around: Around = { task: "", labels: {} }): Hit[] {
  const text = query.trim().toLowerCase();
  const col = column(payload, model, key);
  const valueOf = (node: string): string => {
    const head = readHead(node);
    const value = head && col ? col.mean[head.layer * model.n_heads + head.head] : NaN;
    return Number.isNaN(value) ? "" : `${signed(value)} ${col!.units}`;
  };
  if (!text)
    return col
      ? ranked(model, col)
          .slice(0, 12)
          .map((one) => ({ node: one.name, why: `rank ${one.rank}, ${valueOf(one.name)}` }))
      : [];
  const hits = new Map<string, Hit>();
  const add = (node: string, why: string): void => {
    if (!hits.has(node) && hits.size < MOST) hits.set(node, { node, why });
  };
  const exact = readHead(text);
  if (exact && exact.layer < model.n_layers && exact.head < model.n_heads)
    add(headName(exact.layer, exact.head), valueOf(headName(exact.layer, exact.head)) || "head");
  const mlp = readMlp(text);
  if (mlp !== null && mlp < model.n_layers) add(`m${mlp}`, `MLP of layer ${mlp}`);
  const prefix = /^[al]?(\d+)(?:\.(?:h(\d*)?)?)?$/.exec(text);
  if (prefix && Number(prefix[1]) < model.n_layers) {
    for (let head = 0; head < model.n_heads; head++)
      if (!prefix[2] || String(head).startsWith(prefix[2]))
        add(headName(Number(prefix[1]), head), valueOf(headName(Number(prefix[1]), head)) || `head of layer ${prefix[1]}`);
  }
  for (const [node, label] of Object.entries(around.labels)) if (label.toLowerCase().includes(text)) add(baseOf(node), `labelled ${label}`);
  for (const role of payload.roles.filter(
    (one) => one.model === model.id && `${one.title} ${one.name}`.toLowerCase().replace(/_/g, " ").includes(text.replace(/_/g, " ")),
  )) {
    const of = column(payload, model, `role:${role.name}`);
    if (of)
      for (const one of ranked(model, of).slice(0, 10))
        add(one.name, `${role.title}: rank ${one.rank}, ${signed(one.value)}${of.distinct[one.index] === 1 ? ", earned" : ", not earned"}`);
  }
  for (const card of payload.cards.filter((one) => one.model === model.id)) {
    for (const one of card.tokens?.entries ?? []) {
      const parts: [string, string[]][] = [
        ["reads", [one.token]],
        ["raises", one.promoted],
        ["lowers", one.suppressed],
      ];
      for (const [how, tokens] of parts) {
        const token = tokens.find((candidate) => candidate.toLowerCase().includes(text));
        if (token !== undefined) add(card.head, `${how} ${tokenText(token)}`);
      }
    }
  }
  for (const hit of lookers(payload, model, around.task, text)) add(hit.node, hit.why);
  return [...hits.values()];
}

/** Heads whose last token looks most at a token of this text, on the first prompt of the task that holds one. */
function lookers(payload: Payload, model: Model, task: string, text: string): Hit[] {
  for (const entry of payload.attention.filter((one) => one.model === model.id && one.task === task && one.side === "clean")) {
    const pair = payload.prompts.find((one) => one.model === model.id && one.task === task)?.pairs[entry.pair];
    const places = (pair?.clean ?? []).flatMap((token, i) => (i <= pair!.end && token.toLowerCase().includes(text) ? [i] : []));
    if (!pair || !places.length) continue;
    const weighed = entry.heads.flatMap((node) => {
      const seen = pattern(entry, node)!,
        weights = places.map((place) => seen.weights[pair.end * seen.tokens + place]);
      const weight = Math.max(...weights);
      return weight >= LOOKS ? [{ node, weight, token: pair.clean[places[weights.indexOf(weight)]] }] : [];
    });
    return weighed
      .sort((a, b) => b.weight - a.weight)
      .slice(0, LOOKERS)
      .map((one) => ({ node: one.node, why: `last token looks at ${tokenText(one.token)}: ${number(one.weight, 2)}, pair ${entry.pair}` }));
  }
  return [];
}
