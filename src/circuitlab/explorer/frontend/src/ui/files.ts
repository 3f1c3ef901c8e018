/** What the reader takes away: files, and text on the clipboard. */
import { drawScene } from "../scene/canvas.ts";
import type { Scene } from "../scene/scene.ts";
import { svgText } from "../scene/svg.ts";
import type { Palette } from "./theme.ts";

export function saveText(name: string, text: string, type: string): void {
  saveBlob(name, new Blob([text], { type: `${type};charset=utf-8` }));
}

export function saveSvg(name: string, scene: Scene, colours: Palette): void {
  saveText(`${name}.svg`, svgText(scene, colours.panel), "image/svg+xml");
}

/** Drawn on a canvas at twice the size, with a margin, so that no image has to be loaded. */
export function savePng(name: string, scene: Scene, colours: Palette): void {
  const canvas = document.createElement("canvas");
  const inner = document.createElement("canvas");
  const ratio = 2,
    margin = 16 * ratio;
  drawScene(inner, scene, ratio, colours.panel);
  canvas.width = inner.width + 2 * margin;
  canvas.height = inner.height + 2 * margin;
  const context = canvas.getContext("2d");
  if (!context) return;
  context.fillStyle = colours.panel;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(inner, margin, margin);
  canvas.toBlob((blob) => blob && saveBlob(`${name}.png`, blob), "image/png");
}

function saveBlob(name: string, blob: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name.replace(/[^\w.-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** True when the text is on the clipboard; a page without permission says so instead of pretending. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

export function readJson(file: File): Promise<unknown> {
  return file.text().then((text) => JSON.parse(text) as unknown);
}
