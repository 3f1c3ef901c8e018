/** A mean with its interval on a line through 0, in the size of a table cell. */
import { useExplorer } from "../state/store.ts";

export interface Reach {
  from: number;
  to: number;
}

/** The range that several values need, 0 included. */
export function reachOf(all: { mean: number; low?: number | null; high?: number | null }[]): Reach {
  let from = 0,
    to = 0;
  for (const one of all)
    for (const value of [one.mean, one.low, one.high]) {
      if (typeof value === "number" && Number.isFinite(value)) {
        from = Math.min(from, value);
        to = Math.max(to, value);
      }
    }
  if (from === to) to = from + 1;
  const pad = (to - from) * 0.04;
  return { from: from - pad, to: to + pad };
}

interface Props {
  mean: number;
  low?: number | null;
  high?: number | null;
  reach: Reach;
  sure?: boolean;
  width?: number;
  band?: { low: number; high: number } | null;
  tick?: number | null;
}

export function Whisker({ mean, low, high, reach, sure = true, width = 120, band, tick }: Props) {
  const { colours } = useExplorer();
  const at = (value: number): number => ((value - reach.from) / (reach.to - reach.from)) * (width - 8) + 4;
  const limits = typeof low === "number" && typeof high === "number" && Number.isFinite(low) && Number.isFinite(high);
  const colour = mean < 0 ? colours.hinders : colours.helps;
  return (
    <svg class="clx-whisker" width={width} height="16" viewBox={`0 0 ${width} 16`} aria-hidden="true">
      {band && <rect x={at(band.low)} y="2" width={Math.max(1, at(band.high) - at(band.low))} height="12" fill={colours.faint} />}
      <line x1={at(0)} x2={at(0)} y1="1" y2="15" stroke={colours.line} />
      {typeof tick === "number" && <line x1={at(tick)} x2={at(tick)} y1="2" y2="14" stroke={colours.ink} stroke-dasharray="2 2" />}
      {limits && <line x1={at(low)} x2={at(high)} y1="8" y2="8" stroke={colour} stroke-width="1.5" />}
      {Number.isFinite(mean) && (
        <circle cx={at(mean)} cy="8" r="3.5" fill={sure ? colour : colours.panel} stroke={colour} stroke-width="1.5" />
      )}
    </svg>
  );
}
