/** One head and one column of numbers, in words. */
import { interval, probability, signed } from "../ui/format.ts";
import { type Column, rankOf, ranked } from "./metrics.ts";
import type { Model } from "./schema.ts";

export interface Description {
  name: string;
  value: string;
  limits: string;
  verdict: string;
  rank: string;
  sentence: string;
}

export function describeHead(model: Model, column: Column, index: number, name: string): Description {
  const value = column.mean[index];
  const limits = column.low && column.high && !Number.isNaN(column.low[index]) ? interval(column.low[index], column.high[index]) : "";
  const place = rankOf(model, column, index);
  return described(
    name,
    value,
    limits,
    column,
    column.distinct[index],
    column.q?.[index],
    place === null ? "" : `rank ${place} of ${ranked(model, column).length}`,
  );
}

export function describeMlp(column: Column, layer: number): Description {
  const { mean, low, high, distinct } = column.mlps!;
  const limits = low && high && !Number.isNaN(low[layer]) ? interval(low[layer], high[layer]) : "";
  return described(`m${layer}`, mean[layer], limits, column, distinct[layer], undefined, "");
}

function described(
  name: string,
  mean: number,
  limits: string,
  column: Column,
  distinct: number,
  q: number | undefined,
  rank: string,
): Description {
  const value = Number.isNaN(mean) ? "not known" : `${signed(mean)} ${column.units}`;
  const tested = q === undefined || Number.isNaN(q) ? "" : ` (q ${probability(q).replace(/^(?=\d)/, "= ")})`;
  const no = column.role ? "role not earned" : "not distinguishable from 0";
  const verdict =
    distinct === 2 ? "" : distinct === 1 ? (column.role ? `role earned${tested}` : `distinguishable from 0${tested}`) : `${no}${tested}`;
  return {
    name,
    value,
    limits,
    verdict,
    rank,
    sentence: [`${name}: ${value}`, limits && `95 % interval ${limits}`, verdict, rank].filter(Boolean).join(", "),
  };
}
