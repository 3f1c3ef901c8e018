/** The map of heads, drawn on a canvas, with one active cell in the document that the arrow keys move. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { describeHead, describeMlp, type Description } from "../data/describe.ts";
import type { Column } from "../data/metrics.ts";
import { headName, readHead, readMlp } from "../data/nodes.ts";
import type { Model } from "../data/schema.ts";
import { useExplorer } from "../state/store.ts";
import { useName } from "../ui/controls.tsx";
import { CanvasFigure, Tip } from "../ui/figure.tsx";
import { boxOf, type Cell, cellAt, type Geometry, gridScene, type Marked } from "./grid-scene.ts";

export const nameOf = (cell: Cell): string => (cell.mlp ? `m${cell.layer}` : headName(cell.layer, cell.head));

export function cellOf(name: string): Cell | null {
  const head = readHead(name);
  if (head) return { ...head, mlp: false };
  const layer = readMlp(name);
  return layer === null ? null : { layer, head: -1, mlp: true };
}

export function describe(model: Model, column: Column, cell: Cell): Description {
  return cell.mlp ? describeMlp(column, cell.layer) : describeHead(model, column, cell.layer * model.n_heads + cell.head, nameOf(cell));
}

interface Props {
  model: Model;
  column: Column;
  geometry: Geometry;
  marked: Marked;
  label: string;
  onPick: (name: string) => void;
  onPin?: (name: string) => void;
}

export function Grid({ model, column, geometry, marked, label, onPick, onPin }: Props) {
  const { colours } = useExplorer();
  const [hover, setHover] = useState<Cell | null>(null);
  const [active, setActive] = useState<Cell>({ layer: 0, head: 0, mlp: false });
  /** Where the next key starts, also before the last one is drawn. */
  const at = useRef(active);
  const [keyed, setKeyed] = useState(false);
  const id = useName("cell");
  const scene = useMemo(() => gridScene(geometry, column, colours, marked), [geometry, column, colours, marked]);
  const goTo = (cell: Cell): void => {
    at.current = cell;
    setActive(cell);
  };
  useEffect(() => {
    if (marked.selected) goTo(marked.selected);
  }, [marked.selected?.layer, marked.selected?.head]);
  const g = geometry,
    columns = g.heads + (g.mlps ? 1 : 0);
  const key = (event: KeyboardEvent): void => {
    const from = at.current;
    const across = from.mlp ? g.heads : from.head;
    const step: Record<string, [number, number]> = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      PageUp: [-10, 0],
      PageDown: [10, 0],
      Home: [0, -columns],
      End: [0, columns],
    };
    const move = step[event.key];
    if (event.key === "p" && onPin && !from.mlp) {
      onPin(nameOf(from));
      event.preventDefault();
      return;
    }
    if (event.key === "Enter" || event.key === " ") {
      onPick(nameOf(from));
      event.preventDefault();
      return;
    }
    if (!move) return;
    event.preventDefault();
    const layer = Math.max(0, Math.min(g.layers - 1, from.layer + move[0])),
      place = Math.max(0, Math.min(columns - 1, across + move[1]));
    setKeyed(true);
    goTo(place === g.heads ? { layer, head: -1, mlp: true } : { layer, head: place, mlp: false });
  };
  const box = boxOf(g, active);
  const pointed = hover ?? (keyed ? active : null);
  const shown = pointed && describe(model, column, pointed);
  const hoverBox = pointed && boxOf(g, pointed);
  return (
    <div
      class="clx-scroll clx-grid"
      role="grid"
      tabIndex={0}
      aria-label={label}
      aria-rowcount={g.layers}
      aria-colcount={columns}
      aria-activedescendant={`${id}-${nameOf(active)}`}
      onKeyDown={key}
      onBlur={() => setKeyed(false)}
    >
      <CanvasFigure
        scene={scene}
        label={label}
        hidden
        onMove={(x, y) => {
          const next = cellAt(g, x, y);
          if (next?.layer !== hover?.layer || next?.head !== hover?.head) setHover(next);
        }}
        onLeave={() => setHover(null)}
        onPick={(x, y, event) => {
          const cell = cellAt(g, x, y);
          if (!cell) return;
          setKeyed(false);
          goTo(cell);
          if ((event.ctrlKey || event.metaKey || event.shiftKey) && onPin && !cell.mlp) onPin(nameOf(cell));
          else onPick(nameOf(cell));
        }}
      >
        <div role="row" aria-rowindex={active.layer + 1}>
          <div
            key={nameOf(active)}
            id={`${id}-${nameOf(active)}`}
            role="gridcell"
            class="clx-cell"
            aria-colindex={(active.mlp ? g.heads : active.head) + 1}
            aria-label={describe(model, column, active).sentence}
            aria-selected={nameOf(active) === (marked.selected ? nameOf(marked.selected) : "")}
            style={{ left: `${box.x - 2}px`, top: `${box.y - 2}px`, width: `${box.w + 3}px`, height: `${box.h + 3}px` }}
            onClick={() => onPick(nameOf(active))}
          />
        </div>
        {hoverBox && (
          <i
            class="clx-hover"
            style={{ left: `${hoverBox.x - 1}px`, top: `${hoverBox.y - 1}px`, width: `${hoverBox.w}px`, height: `${hoverBox.h}px` }}
          />
        )}
        {shown && hoverBox && (
          <Tip x={hoverBox.x + hoverBox.w / 2} y={hoverBox.y + hoverBox.h + 6} width={scene.width}>
            <Described of={shown} />
          </Tip>
        )}
      </CanvasFigure>
    </div>
  );
}

export function Described({ of }: { of: Description }) {
  return (
    <>
      <b class="clx-mono">{of.name}</b> <span class="clx-num">{of.value}</span>{" "}
      {of.limits && <span class="clx-num clx-soft">{of.limits}</span>}
      {(of.verdict || of.rank) && <div class="clx-soft">{[of.verdict, of.rank].filter(Boolean).join(" · ")}</div>}
    </>
  );
}
