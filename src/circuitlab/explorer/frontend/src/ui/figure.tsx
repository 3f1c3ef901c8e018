/** Scenes in the page: on a canvas where there are many shapes, as SVG where shapes are few and interactive. */
import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { drawScene } from "../scene/canvas.ts";
import { MONO, SANS, type Scene, type Shape } from "../scene/scene.ts";

/** The width of an element, kept current. */
export function useWidth<T extends HTMLElement>(first: number): [RefObject<T | null>, number] {
  const ref = useRef<T>(null);
  const [width, setWidth] = useState(first);
  useLayoutEffect(() => {
    const element = ref.current;
    if (!element) return;
    const measure = (): void => {
      if (element.clientWidth > 0) setWidth(element.clientWidth);
    };
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

interface CanvasProps {
  scene: Scene;
  label: string;
  hidden?: boolean;
  children?: ComponentChildren;
  onMove?: (x: number, y: number) => void;
  onLeave?: () => void;
  onPick?: (x: number, y: number, event: MouseEvent) => void;
}

export function CanvasFigure({ scene, label, hidden, children, onMove, onLeave, onPick }: CanvasProps) {
  const ref = useRef<HTMLCanvasElement>(null);
  const [ratio, setRatio] = useState(() => Math.max(1, window.devicePixelRatio));
  useEffect(() => {
    const watch = matchMedia(`(resolution: ${window.devicePixelRatio}dppx)`);
    const changed = (): void => setRatio(Math.max(1, window.devicePixelRatio));
    watch.addEventListener("change", changed);
    return () => watch.removeEventListener("change", changed);
  }, [ratio]);
  useLayoutEffect(() => {
    // Once a frame: a scene that is replaced before it is seen, as when a width is first measured, is not drawn.
    const frame = requestAnimationFrame(() => {
      if (ref.current) drawScene(ref.current, scene, ratio);
    });
    return () => cancelAnimationFrame(frame);
  }, [scene, ratio]);
  const at = (event: MouseEvent): [number, number] => {
    const box = ref.current!.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * scene.width, ((event.clientY - box.top) / box.height) * scene.height];
  };
  const named = hidden ? { "aria-hidden": true as const } : { role: "img" as const, "aria-label": label };
  return (
    <div class="clx-figure" style={{ width: `${scene.width}px`, height: `${scene.height}px` }}>
      <canvas
        ref={ref}
        {...named}
        style={{ width: `${scene.width}px`, height: `${scene.height}px` }}
        onPointerMove={(event) => onMove?.(...at(event))}
        onPointerLeave={() => onLeave?.()}
        onClick={(event) => onPick?.(...at(event), event)}
      />
      {children}
    </div>
  );
}

export function SvgFigure({ scene, label, children }: { scene: Scene; label: string; children?: ComponentChildren }) {
  return (
    <svg
      class="clx-svg"
      width={scene.width}
      height={scene.height}
      viewBox={`0 0 ${scene.width} ${scene.height}`}
      role="img"
      aria-label={label}
    >
      {scene.shapes.map(shapeElement)}
      {children}
    </svg>
  );
}

export function shapeElement(shape: Shape, key: number) {
  const look =
    "text" in shape
      ? {}
      : {
          fill: ("fill" in shape ? shape.fill : undefined) ?? "none",
          stroke: shape.stroke,
          "stroke-width": shape.width,
          opacity: shape.opacity,
          "stroke-dasharray": "dash" in shape && shape.dash ? shape.dash.join(" ") : undefined,
        };
  switch (shape.kind) {
    case "rect":
      return <rect key={key} x={shape.x} y={shape.y} width={shape.w} height={shape.h} rx={shape.radius} {...look} />;
    case "line":
      return <line key={key} x1={shape.x1} y1={shape.y1} x2={shape.x2} y2={shape.y2} {...look} />;
    case "circle":
      return <circle key={key} cx={shape.x} cy={shape.y} r={shape.r} {...look} />;
    case "path":
      return <path key={key} d={shape.d} {...look} />;
    case "text":
      return (
        <text
          key={key}
          x={shape.x}
          y={shape.y}
          font-family={shape.mono ? MONO : SANS}
          font-size={shape.size}
          font-weight={shape.weight}
          text-anchor={shape.anchor}
          fill={shape.fill}
          transform={shape.rotate ? `rotate(${shape.rotate} ${shape.x} ${shape.y})` : undefined}
        >
          {shape.text}
        </text>
      );
  }
}

/** A small note beside the pointer, inside a figure; it never catches the pointer. */
export function Tip({ x, y, width, children }: { x: number; y: number; width: number; children: ComponentChildren }) {
  const left = x > width / 2;
  return (
    <div class="clx-tip" style={{ top: `${y}px`, [left ? "right" : "left"]: `${left ? width - x + 12 : x + 12}px` }} aria-hidden="true">
      {children}
    </div>
  );
}
