/** The graph: scrolls to pan, zooms, and every node is a button that the arrow keys reach. */
import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Joined } from "../data/groups.ts";
import { useExplorer } from "../state/store.ts";
import { Icon } from "../ui/controls.tsx";
import { shapeElement } from "../ui/figure.tsx";
import { signed } from "../ui/format.ts";
import type { Layout } from "./circuit-layout.ts";
import { BELOW, countShapes, edgeShapes, type NodeLook, nodeShapes, portShapes, rowShapes, sizeOf } from "./circuit-scene.ts";

interface Props {
  layout: Layout;
  edges: Joined[];
  look: NodeLook;
  title: string;
  onChoose: (node: string, more: boolean) => void;
}

export function Graph({ layout, edges, look, title, onChoose }: Props) {
  const { colours } = useExplorer();
  const view = useRef<HTMLDivElement>(null);
  const [zoom, setZoom] = useState(0);
  const [hover, setHover] = useState("");
  const drag = useRef<{ x: number; y: number; left: number; top: number } | null>(null);
  const [fit, setFit] = useState({ width: 1, all: 1 });
  useLayoutEffect(() => {
    const element = view.current;
    if (element)
      setFit({
        width: Math.min(1, (element.clientWidth - 14) / layout.width),
        all: Math.min(1, (element.clientWidth - 14) / layout.width, (element.clientHeight - 14) / layout.height),
      });
  }, [layout]);
  const scale = zoom || Math.max(0.55, fit.width);
  useLayoutEffect(() => {
    const element = view.current,
      node = layout.nodes.get(look.selected);
    if (!element || !node) return;
    const top = node.y * scale,
      left = node.x * scale;
    if (top < element.scrollTop || top > element.scrollTop + element.clientHeight - 60) element.scrollTop = top - element.clientHeight / 2;
    if (left < element.scrollLeft || left > element.scrollLeft + element.clientWidth - 60)
      element.scrollLeft = left - element.clientWidth / 2;
  }, [look.selected, layout]);
  const lit = hover || look.selected;
  const wires = useMemo(() => edgeShapes(layout, edges, lit, colours), [layout, edges, lit, colours]);
  const rows = useMemo(() => rowShapes(layout, colours), [layout, colours]);
  const ports = useMemo(() => portShapes(layout, edges, colours), [layout, edges, colours]);
  const counts = useMemo(() => countShapes(layout, edges, lit, colours), [layout, edges, lit, colours]);
  const nodes = [...layout.nodes.values()];
  const below = nodes.flatMap((node) => nodeShapes(node, look, colours).filter((shape) => shape.key === BELOW));
  const order = nodes.map((node) => node.name);
  const current = layout.nodes.has(look.selected) ? look.selected : order[0];
  const zoomTo = (next: number): void => setZoom(Math.max(0.2, Math.min(3, next)));
  const key = (event: KeyboardEvent, name: string): void => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      onChoose(name, event.ctrlKey || event.metaKey || event.shiftKey);
      return;
    }
    if (event.key === "g") {
      event.preventDefault();
      onChoose(name, true);
      return;
    }
    const next = neighbour(layout, name, event.key);
    if (!next) return;
    event.preventDefault();
    view.current?.querySelector<SVGGElement>(`[data-node="${next}"]`)?.focus();
  };
  return (
    <div class="clx-graph-frame">
      <div
        ref={view}
        class="clx-graph"
        onWheel={(event) => {
          if (event.ctrlKey || event.metaKey) {
            event.preventDefault();
            zoomTo(scale * Math.exp(-event.deltaY / 300));
          }
        }}
        onPointerDown={(event) => {
          if (event.pointerType === "mouse" && !(event.target as Element).closest("[data-node]")) {
            const element = view.current!;
            drag.current = { x: event.clientX, y: event.clientY, left: element.scrollLeft, top: element.scrollTop };
          }
        }}
        onPointerMove={(event) => {
          const start = drag.current;
          if (start) {
            view.current!.scrollLeft = start.left - (event.clientX - start.x);
            view.current!.scrollTop = start.top - (event.clientY - start.y);
          }
        }}
        onPointerUp={() => {
          drag.current = null;
        }}
        onPointerLeave={() => {
          drag.current = null;
        }}
      >
        <svg
          class="clx-svg"
          width={layout.width * scale}
          height={layout.height * scale}
          viewBox={`0 0 ${layout.width} ${layout.height}`}
          role="group"
          aria-label={`${title}. Arrow keys move between nodes, Enter chooses, g adds to a group.`}
        >
          {rows.map(shapeElement)}
          {wires.map(shapeElement)}
          {nodes.map((node) => (
            <g
              key={node.name}
              data-node={node.name}
              role="button"
              tabindex={node.name === current ? 0 : -1}
              aria-pressed={node.name === look.selected}
              aria-label={spoken(node.name, look)}
              onClick={(event) => onChoose(node.name, event.ctrlKey || event.metaKey || event.shiftKey)}
              onKeyDown={(event) => key(event, node.name)}
              onPointerEnter={() => setHover(node.name)}
              onPointerLeave={() => setHover("")}
            >
              {nodeShapes(node, look, colours)
                .filter((shape) => shape.key !== BELOW)
                .map(shapeElement)}
            </g>
          ))}
          <g class="clx-ports">{[...ports, ...below, ...counts].map(shapeElement)}</g>
        </svg>
      </div>
      <div class="clx-zoom">
        <button type="button" class="clx-icon" aria-label="Zoom in" onClick={() => zoomTo(scale * 1.25)}>
          <Icon name="plus" />
        </button>
        <button type="button" class="clx-icon" aria-label="Zoom out" onClick={() => zoomTo(scale / 1.25)}>
          <Icon name="minus" />
        </button>
        <button
          type="button"
          class="clx-icon"
          aria-label="Fit the whole circuit"
          title="Fit the whole circuit"
          onClick={() => setZoom(zoom === fit.all ? 0 : fit.all)}
        >
          <Icon name="fit" />
        </button>
      </div>
    </div>
  );
}

function spoken(name: string, look: NodeLook): string {
  const box = look.boxes.get(name);
  if (box) return `${box.name} ${sizeOf(box)}: group of ${box.members.join(", ")}`;
  const label = look.labels[name] ? `, ${look.labels[name]}` : "",
    [node, mark] = name.split("@");
  return `${node}${mark ? ` at ${mark}` : ""}${label}${look.weights.has(name) ? `, score ${signed(look.weights.get(name))}` : ""}`;
}

/** The nearest node in the direction of an arrow key. */
export function neighbour(layout: Layout, name: string, key: string): string | null {
  const from = layout.nodes.get(name);
  const along: Record<string, [number, number]> = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  const way = along[key];
  if (!from || !way) return null;
  let best: string | null = null,
    least = Infinity;
  for (const node of layout.nodes.values()) {
    if (node.name === name) continue;
    const dx = node.x + node.w / 2 - from.x - from.w / 2,
      dy = node.y + node.h / 2 - from.y - from.h / 2;
    const ahead = dx * way[0] + dy * way[1],
      aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
    if (ahead <= 4) continue;
    const cost = ahead + 2.5 * aside;
    if (cost < least) {
      least = cost;
      best = node.name;
    }
  }
  return best;
}
