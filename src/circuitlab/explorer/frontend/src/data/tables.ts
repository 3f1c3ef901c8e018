/** Tables that panels export. */
import type { Rows } from "../ui/panel.tsx";
import { type Column, ranked } from "./metrics.ts";
import type { Model } from "./schema.ts";

export function columnRows(model: Model, column: Column): Rows {
  const value = (array: Float32Array | null, i: number): number | null => (array ? array[i] : null);
  const verdict = ["no", "yes", ""];
  const rows: Rows = [
    ["rank", "node", "layer", "head", "value", "low", "high", "q", column.role ? "earned" : "distinguishable", "units", "what"],
  ];
  for (const one of ranked(model, column)) {
    rows.push([
      one.rank,
      one.name,
      Math.floor(one.index / model.n_heads),
      one.index % model.n_heads,
      one.value,
      value(column.low, one.index),
      value(column.high, one.index),
      value(column.q, one.index),
      verdict[column.distinct[one.index]],
      column.units,
      column.label,
    ]);
  }
  if (column.mlps) {
    for (let layer = 0; layer < model.n_layers; layer++) {
      rows.push([
        null,
        `m${layer}`,
        layer,
        null,
        column.mlps.mean[layer],
        value(column.mlps.low, layer),
        value(column.mlps.high, layer),
        null,
        verdict[column.mlps.distinct[layer]],
        column.units,
        column.label,
      ]);
    }
  }
  return rows;
}

export function pairRows(model: Model, x: Column, y: Column, inside: Set<number> | null): Rows {
  const rows: Rows = [["node", `x: ${x.label}`, "x low", "x high", `y: ${y.label}`, "y low", "y high", "marked"]];
  for (const one of ranked(model, y)) {
    const i = one.index;
    rows.push([one.name, x.mean[i], x.low?.[i], x.high?.[i], y.mean[i], y.low?.[i], y.high?.[i], inside ? inside.has(i) : null]);
  }
  return rows;
}
