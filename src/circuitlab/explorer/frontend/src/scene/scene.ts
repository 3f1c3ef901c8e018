/** A picture as plain data: drawn on a canvas, as SVG in the page, or written to a file, always the same. */

export interface Rect {
  kind: "rect";
  x: number;
  y: number;
  w: number;
  h: number;
  fill?: string;
  stroke?: string;
  width?: number;
  radius?: number;
  opacity?: number;
}
export interface Line {
  kind: "line";
  x1: number;
  y1: number;
  x2: number;
  y2: number;
  stroke: string;
  width?: number;
  dash?: number[];
  opacity?: number;
}
export interface Circle {
  kind: "circle";
  x: number;
  y: number;
  r: number;
  fill?: string;
  stroke?: string;
  width?: number;
  opacity?: number;
}
export interface Path {
  kind: "path";
  d: string;
  fill?: string;
  stroke?: string;
  width?: number;
  opacity?: number;
  dash?: number[];
}
export interface Text {
  kind: "text";
  x: number;
  y: number;
  text: string;
  size: number;
  fill: string;
  anchor?: "start" | "middle" | "end";
  weight?: number;
  mono?: boolean;
  rotate?: number;
}
export type Shape = (Rect | Line | Circle | Path | Text) & { key?: string };
export interface Scene {
  width: number;
  height: number;
  title: string;
  shapes: Shape[];
}

export const SANS = "Inter, 'Segoe UI', system-ui, -apple-system, 'Helvetica Neue', Arial, sans-serif";
export const MONO = "ui-monospace, 'SF Mono', 'Cascadia Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";

/** Diagonal strokes inside a rectangle, as the data of a path; strokes of neighbouring rectangles line up. */
export function hatch(x: number, y: number, w: number, h: number, step: number): string {
  const first = Math.ceil((x + y) / step) * step;
  let d = "";
  for (let sum = first; sum < x + y + w + h; sum += step) {
    // The line u + v = sum, clipped to the rectangle.
    const x1 = Math.min(x + w, sum - y),
      y1 = sum - x1;
    const y2 = Math.min(y + h, sum - x),
      x2 = sum - y2;
    if (x1 - x2 > 0.5) d += `M${r(x1)} ${r(y1)}L${r(x2)} ${r(y2)}`;
  }
  return d;
}

/** Scenes one below the other, with a gap. */
export function stack(title: string, scenes: Scene[], gap = 24): Scene {
  const width = Math.max(1, ...scenes.map((scene) => scene.width));
  let top = 0;
  const shapes: Shape[] = [];
  for (const scene of scenes) {
    for (const shape of scene.shapes) shapes.push(moved(shape, 0, top));
    top += scene.height + gap;
  }
  return { width, height: Math.max(1, top - gap), title, shapes };
}

/** Scenes side by side. */
export function beside(title: string, scenes: Scene[], gap = 32): Scene {
  let left = 0;
  const shapes: Shape[] = [];
  for (const scene of scenes) {
    for (const shape of scene.shapes) shapes.push(moved(shape, left, 0));
    left += scene.width + gap;
  }
  return { width: Math.max(1, left - gap), height: Math.max(1, ...scenes.map((scene) => scene.height)), title, shapes };
}

function moved(shape: Shape, dx: number, dy: number): Shape {
  switch (shape.kind) {
    case "line":
      return { ...shape, x1: shape.x1 + dx, y1: shape.y1 + dy, x2: shape.x2 + dx, y2: shape.y2 + dy };
    case "path":
      return { ...shape, d: movedPath(shape.d, dx, dy) };
    default:
      return { ...shape, x: shape.x + dx, y: shape.y + dy };
  }
}

/** Every path here is made of absolute M, L, C and Z only, so that coordinates alternate x, y. */
function movedPath(d: string, dx: number, dy: number): string {
  let even = false;
  return d.replace(/-?\d+(?:\.\d+)?(?:e-?\d+)?/g, (value) => {
    even = !even;
    return r(Number(value) + (even ? dx : dy));
  });
}

/** Lines of text as a scene: what a panel of words exports as a picture. */
export function lines(title: string, texts: string[], fill: string, size = 13): Scene {
  const shapes: Shape[] = texts.map((text, i) => ({ kind: "text", x: 0, y: (i + 1) * size * 1.5, text, size, fill }));
  return {
    width: Math.max(240, ...texts.map((text) => text.length * size * 0.56)),
    height: (texts.length + 0.5) * size * 1.5,
    title,
    shapes,
  };
}

export function r(value: number): string {
  return String(Math.round(value * 100) / 100);
}
