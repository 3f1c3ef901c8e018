/** The map panel: grid, scatter plot or list of any number per head. */
import { useMemo } from "preact/hooks";
import { axisOptions, metricOptions } from "../data/choices.ts";
import { column } from "../data/metrics.ts";
import { mapPython } from "../data/snippets.ts";
import { columnRows, pairRows } from "../data/tables.ts";
import { lines } from "../scene/scene.ts";
import { metricKey, type MapKind } from "../state/state.ts";
import { useExplorer } from "../state/store.ts";
import { Absent, Segmented, Select } from "../ui/controls.tsx";
import { useWidth } from "../ui/figure.tsx";
import { Panel } from "../ui/panel.tsx";
import { geometry, gridScene, type Marked } from "./grid-scene.ts";
import { cellOf, Grid } from "./grid.tsx";
import { insideBrush, plotOf, scatterScene } from "./scatter-scene.ts";
import { Scatter } from "./scatter.tsx";
import { TopList } from "./toplist.tsx";

export function togglePin(pins: string[], name: string): string[] {
  return pins.includes(name) ? pins.filter((pin) => pin !== name) : [...pins, name];
}

export function MapPanel() {
  const { payload, state, model, set, colours, root } = useExplorer();
  const [box, width] = useWidth<HTMLDivElement>(560);
  const shown = column(payload, model, metricKey(payload, state));
  const x = column(payload, model, state.x),
    y = column(payload, model, state.y);
  const inside = useMemo(() => (x && y ? insideBrush(x, y, state.brush) : null), [x, y, state.brush]);
  const grid = useMemo(() => geometry(model, width, Boolean(shown?.mlps), width > 900 ? 26 : 20), [model, width, shown]);
  const marked: Marked = useMemo(
    () => ({
      selected: cellOf(state.node),
      pinned: state.pins.map((pin) => cellOf(pin)!),
      outlined: inside
        ? [...inside].slice(0, 200).map((i) => ({ layer: Math.floor(i / model.n_heads), head: i % model.n_heads, mlp: false }))
        : [],
    }),
    [state.node, state.pins, inside],
  );
  const pick = (node: string): void => set({ node });
  const plotHeight = Math.max(320, Math.min(560, width * 0.8));
  const kinds: { value: MapKind; label: string }[] = [
    { value: "grid", label: "Map" },
    { value: "scatter", label: "Scatter" },
    { value: "list", label: "Top" },
  ];
  const scene = () => {
    if (state.map === "scatter" && x && y)
      return scatterScene(plotOf(x, y, width, plotHeight), x, y, colours, { selected: -1, pinned: [], inside, hover: -1 });
    return shown ? gridScene(grid, shown, colours, marked) : lines("Heads", ["Nothing to draw"], colours.ink);
  };
  const rows = () => (state.map === "scatter" && x && y ? pairRows(model, x, y, inside) : shown ? columnRows(model, shown) : []);
  return (
    <Panel
      name="map"
      title="Heads"
      note={state.map === "scatter" ? undefined : shown?.label}
      scene={scene}
      rows={rows}
      python={() => mapPython(payload, state, shown)}
      tools={<Segmented label="Show heads as" value={state.map} options={kinds} onChange={(map) => set({ map })} />}
    >
      <div class="clx-row clx-controls">
        {state.map === "scatter" ? (
          <>
            <Select label="x" value={state.x} options={axisOptions(payload, model)} onChange={(value) => set({ x: value, brush: [] })} />
            <Select label="y" value={state.y} options={axisOptions(payload, model)} onChange={(value) => set({ y: value, brush: [] })} />
          </>
        ) : (
          <Select label="Show" value={state.metric} options={metricOptions(payload, model)} onChange={(metric) => set({ metric })} />
        )}
      </div>
      <div ref={box}>
        {state.map === "scatter" &&
          (x && y ? (
            <Scatter x={x} y={y} width={width} height={plotHeight} brush={state.brush} onBrush={(brush) => set({ brush })} onPick={pick} />
          ) : (
            <Absent what="Scatter plot" reason={payload.absent.scores ?? "There are no two numbers per head on this page."} />
          ))}
        {state.map === "grid" &&
          (shown ? (
            <Grid
              model={model}
              column={shown}
              geometry={grid}
              marked={marked}
              label={`${shown.label}: layers down, heads across. Arrow keys move, Enter opens a head, p pins it.`}
              onPick={pick}
              onPin={(name) => set({ pins: togglePin(state.pins, name) })}
            />
          ) : (
            <Absent what="Map" reason={payload.absent.scores ?? "There are no scores of this task and method on this page."} />
          ))}
        {state.map === "list" &&
          (shown ? (
            <TopList column={shown} inside={inside} onPick={pick} />
          ) : (
            <Absent what="List" reason={payload.absent.scores ?? "There are no scores of this task and method on this page."} />
          ))}
        {shown && state.map === "grid" && (
          <p class="clx-note">
            Click a head to open its card, or press <kbd>/</kbd> and type its name, as a9.h6 or 9.6. Arrow keys move, p pins.{" "}
            {state.node && (
              <button
                type="button"
                class="clx-link clx-narrow-only"
                onClick={() => root().querySelector("[data-panel=card]")?.scrollIntoView({ block: "start" })}
              >
                To the card of {state.node}
              </button>
            )}
          </p>
        )}
        {shown?.shared && state.map === "grid" && (
          <p class="clx-note">These are values of key/value heads; they stand at every query head that shares one.</p>
        )}
      </div>
    </Panel>
  );
}
