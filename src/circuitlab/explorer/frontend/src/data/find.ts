/** Finder: heads by name, by role, and by tokens that they write or that a prompt holds. */
import { column, ranked } from "./metrics.ts";
import { headName, readHead, readMlp } from "./nodes.ts";
import type { Model, Payload } from "./schema.ts";
import { signed, tokenText } from "../ui/format.ts";

export interface Hit {
  node: string;
  why: string;
}

const MOST = 30;

export function find(payload: Payload, model: Model, query: string, key: string): Hit[] {
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
  return [...hits.values()];
}
