/** Attention as a matrix: queries down, keys across. */
import type { Scene, Shape } from "../scene/scene.ts";
import { number, tokenText } from "../ui/format.ts";
import { divergingScale, type Palette } from "../ui/theme.ts";

export interface MatrixLayout {
  cell: number;
  left: number;
  top: number;
  tokens: number;
  width: number;
  height: number;
  labels: boolean;
}

export function matrixLayout(tokens: string[], width: number, labels = true): MatrixLayout {
  const n = tokens.length,
    longest = Math.min(14, Math.max(1, ...tokens.map((token) => tokenText(token).length)));
  const side = labels ? 14 + longest * 7 : 0;
  const cell = Math.max(3, Math.min(30, Math.floor((width - side - 2) / Math.max(1, n))));
  return {
    cell,
    left: side,
    top: labels ? side : 0,
    tokens: n,
    width: side + n * cell + 2,
    height: (labels ? side : 0) + n * cell + 2,
    labels,
  };
}

export function matrixScene(
  layout: MatrixLayout,
  weights: Float32Array,
  tokens: string[],
  limit: number,
  first: boolean,
  colours: Palette,
  marked?: { query: number; key: number },
): Scene {
  const { cell, left, top, tokens: n } = layout;
  const colour = divergingScale(colours, limit);
  const shapes: Shape[] = [];
  for (let query = 0; query < n; query++) {
    for (let key = 0; key <= query; key++) {
      const value = weights[query * n + key],
        leftOut = !first && key === 0;
      shapes.push({
        kind: "rect",
        x: left + key * cell,
        y: top + query * cell,
        w: cell - (cell > 6 ? 1 : 0),
        h: cell - (cell > 6 ? 1 : 0),
        fill: leftOut ? colours.faint : colour(value),
        opacity: leftOut ? 0.5 : undefined,
      });
    }
  }
  if (layout.labels && cell >= 9) {
    const size = Math.min(12, cell);
    tokens.forEach((token, i) => {
      const text = short(token),
        on = marked && marked.query === i,
        at = marked && marked.key === i;
      shapes.push({
        kind: "text",
        x: left - 6,
        y: top + i * cell + cell / 2 + size / 3,
        text,
        size,
        fill: on ? colours.accent : colours.soft,
        weight: on ? 600 : 400,
        anchor: "end",
        mono: true,
      });
      shapes.push({
        kind: "text",
        x: left + i * cell + cell / 2 + size / 3,
        y: top - 6,
        text,
        size,
        fill: at ? colours.accent : colours.soft,
        weight: at ? 600 : 400,
        rotate: -90,
        mono: true,
      });
    });
  }
  if (marked && marked.query >= 0) {
    shapes.push({
      kind: "rect",
      x: left - 1,
      y: top + marked.query * cell - 1,
      w: (marked.query + 1) * cell + 1,
      h: cell + 1,
      stroke: colours.accent,
      width: 1,
      radius: 1,
      opacity: 0.65,
    });
    if (marked.key >= 0 && marked.key <= marked.query)
      shapes.push({
        kind: "rect",
        x: left + marked.key * cell - 1,
        y: top + marked.query * cell - 1,
        w: cell + 1,
        h: cell + 1,
        stroke: colours.accent,
        width: 2,
        radius: 1,
      });
  }
  return { width: layout.width, height: layout.height, title: `Attention, queries down and keys across, up to ${number(limit)}`, shapes };
}

export function short(token: string): string {
  const text = tokenText(token);
  return text.length > 14 ? `${text.slice(0, 13)}\u2026` : text;
}

export function matrixAt(layout: MatrixLayout, x: number, y: number): { query: number; key: number } | null {
  const key = Math.floor((x - layout.left) / layout.cell),
    query = Math.floor((y - layout.top) / layout.cell);
  return query >= 0 && query < layout.tokens && key >= 0 && key <= query ? { query, key } : null;
}
