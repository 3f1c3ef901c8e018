/** The strongest heads with rank, interval and test. */
import { type Column, ranked } from "../data/metrics.ts";
import { useExplorer } from "../state/store.ts";
import { interval, probability, signed } from "../ui/format.ts";
import { Select } from "../ui/controls.tsx";
import { reachOf, Whisker } from "../ui/whisker.tsx";

export function TopList({ column, inside, onPick }: { column: Column; inside: Set<number> | null; onPick: (name: string) => void }) {
  const { model, state, set } = useExplorer();
  const all = ranked(model, column);
  const rows = (inside ? all.filter((one) => inside.has(one.index)) : all).slice(0, state.top);
  const limit = (array: Float32Array | null, i: number): number | undefined => (array && !Number.isNaN(array[i]) ? array[i] : undefined);
  const reach = reachOf(rows.map((one) => ({ mean: one.value, low: limit(column.low, one.index), high: limit(column.high, one.index) })));
  const sizes = [10, 20, 50, 100, 250].filter((n) => n < all.length);
  return (
    <div>
      <div class="clx-row">
        <Select
          label="Show"
          value={String(state.top)}
          options={[...sizes, all.length].map((n) => ({ value: String(n), label: n === all.length ? `all ${n}` : `top ${n}` }))}
          onChange={(value) => set({ top: Number(value) })}
        />
        <p class="clx-note">
          {column.diverging ? "By magnitude." : "By value."}
          {inside ? ` Only the ${inside.size} heads marked in the scatter plot.` : ""}
        </p>
      </div>
      <div class="clx-scroll clx-tall" tabIndex={0} role="region" aria-label={`Top heads by ${column.label}`}>
        <table class="clx-table">
          <thead>
            <tr>
              <th scope="col" class="clx-right">
                Rank
              </th>
              <th scope="col">Head</th>
              <th scope="col">Interval</th>
              <th scope="col" class="clx-right">
                {column.units || "value"}
              </th>
              <th scope="col">95 %</th>
              <th scope="col" class="clx-right clx-q">
                q
              </th>
            </tr>
          </thead>
          <tbody>
            {rows.map((one) => (
              <tr key={one.name} class={one.name === state.node ? "clx-on" : ""}>
                <td class="clx-right clx-num">{one.rank}</td>
                <th scope="row">
                  <button type="button" class="clx-link clx-mono" onClick={() => onPick(one.name)}>
                    {one.name}
                  </button>
                </th>
                <td>
                  <Whisker
                    mean={one.value}
                    low={limit(column.low, one.index)}
                    high={limit(column.high, one.index)}
                    reach={reach}
                    sure={column.distinct[one.index] !== 0}
                  />
                </td>
                <td class="clx-right clx-num">{signed(one.value)}</td>
                <td class="clx-num clx-soft">{interval(limit(column.low, one.index), limit(column.high, one.index)) || "none"}</td>
                <td class="clx-right clx-num clx-q">{column.q ? probability(column.q[one.index]) : "none"}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </div>
  );
}
