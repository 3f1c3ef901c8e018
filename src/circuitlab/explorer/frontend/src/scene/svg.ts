/** Writes a scene as a standalone SVG file; every text is escaped. */
import { MONO, SANS, type Scene, type Shape, r } from "./scene.ts";

export function svgText(scene: Scene, background: string, margin = 16): string {
  const width = scene.width + 2 * margin,
    height = scene.height + 2 * margin;
  const body = scene.shapes.map(element).join("\n");
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${r(width)}" height="${r(height)}" viewBox="${r(-margin)} ${r(-margin)} ${r(width)} ${r(height)}">`,
    `<title>${escaped(scene.title)}</title>`,
    `<rect x="${r(-margin)}" y="${r(-margin)}" width="${r(width)}" height="${r(height)}" fill="${escaped(background)}"/>`,
    body,
    "</svg>",
    "",
  ].join("\n");
}

export function escaped(text: string): string {
  return text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "\ufffd")
    .replace(/&/g, "&amp;")
    .replace(/</g, "&lt;")
    .replace(/>/g, "&gt;")
    .replace(/"/g, "&quot;");
}

function element(shape: Shape): string {
  switch (shape.kind) {
    case "rect":
      return `<rect x="${r(shape.x)}" y="${r(shape.y)}" width="${r(shape.w)}" height="${r(shape.h)}"${shape.radius ? ` rx="${shape.radius}"` : ""}${look(shape)}/>`;
    case "line":
      return `<line x1="${r(shape.x1)}" y1="${r(shape.y1)}" x2="${r(shape.x2)}" y2="${r(shape.y2)}"${look(shape)}/>`;
    case "circle":
      return `<circle cx="${r(shape.x)}" cy="${r(shape.y)}" r="${r(shape.r)}"${look(shape)}/>`;
    case "path":
      return `<path d="${shape.d}"${look(shape)}/>`;
    case "text": {
      const turn = shape.rotate ? ` transform="rotate(${shape.rotate} ${r(shape.x)} ${r(shape.y)})"` : "";
      const font = escaped(shape.mono ? MONO : SANS);
      return (
        `<text x="${r(shape.x)}" y="${r(shape.y)}" font-family="${font}" font-size="${shape.size}" font-weight="${shape.weight ?? 400}" ` +
        `text-anchor="${shape.anchor ?? "start"}" fill="${escaped(shape.fill)}" xml:space="preserve"${turn}>${escaped(shape.text)}</text>`
      );
    }
  }
}

interface Look {
  fill?: string;
  stroke?: string;
  width?: number;
  opacity?: number;
  dash?: number[];
}

function look(shape: Look): string {
  let text = ` fill="${escaped(shape.fill ?? "none")}"`;
  if (shape.stroke) text += ` stroke="${escaped(shape.stroke)}" stroke-width="${shape.width ?? 1}"`;
  if (shape.opacity !== undefined) text += ` opacity="${shape.opacity}"`;
  if (shape.dash?.length) text += ` stroke-dasharray="${shape.dash.join(" ")}"`;
  return text;
}
