/** Draws a scene on a canvas. */
import { MONO, SANS, type Scene, type Shape } from "./scene.ts";

export function drawScene(canvas: HTMLCanvasElement, scene: Scene, ratio: number, background?: string): void {
  canvas.width = Math.round(scene.width * ratio);
  canvas.height = Math.round(scene.height * ratio);
  const context = canvas.getContext("2d");
  if (!context) return;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, scene.width, scene.height);
  if (background) {
    context.fillStyle = background;
    context.fillRect(0, 0, scene.width, scene.height);
  }
  for (const shape of scene.shapes) drawShape(context, shape);
}

function drawShape(context: CanvasRenderingContext2D, shape: Shape): void {
  context.globalAlpha = ("opacity" in shape ? shape.opacity : undefined) ?? 1;
  const dash = "dash" in shape ? shape.dash : undefined;
  if (dash) context.setLineDash(dash);
  if ("width" in shape && shape.width !== undefined) context.lineWidth = shape.width;
  else context.lineWidth = 1;
  switch (shape.kind) {
    case "rect":
      if (shape.radius) {
        context.beginPath();
        context.roundRect(shape.x, shape.y, shape.w, shape.h, shape.radius);
        paint(context, shape.fill, shape.stroke);
      } else {
        if (shape.fill) {
          context.fillStyle = shape.fill;
          context.fillRect(shape.x, shape.y, shape.w, shape.h);
        }
        if (shape.stroke) {
          context.strokeStyle = shape.stroke;
          context.strokeRect(shape.x, shape.y, shape.w, shape.h);
        }
      }
      break;
    case "line":
      context.strokeStyle = shape.stroke;
      context.beginPath();
      context.moveTo(shape.x1, shape.y1);
      context.lineTo(shape.x2, shape.y2);
      context.stroke();
      break;
    case "circle":
      context.beginPath();
      context.arc(shape.x, shape.y, shape.r, 0, 2 * Math.PI);
      paint(context, shape.fill, shape.stroke);
      break;
    case "path": {
      const path = new Path2D(shape.d);
      if (shape.fill) {
        context.fillStyle = shape.fill;
        context.fill(path);
      }
      if (shape.stroke) {
        context.strokeStyle = shape.stroke;
        context.stroke(path);
      }
      break;
    }
    case "text":
      context.save();
      context.font = `${shape.weight ?? 400} ${shape.size}px ${shape.mono ? MONO : SANS}`;
      context.fillStyle = shape.fill;
      context.textAlign = shape.anchor === "middle" ? "center" : (shape.anchor ?? "start");
      context.translate(shape.x, shape.y);
      if (shape.rotate) context.rotate((shape.rotate * Math.PI) / 180);
      context.fillText(shape.text, 0, 0);
      context.restore();
  }
  if (dash) context.setLineDash([]);
}

function paint(context: CanvasRenderingContext2D, fill?: string, stroke?: string): void {
  if (fill) {
    context.fillStyle = fill;
    context.fill();
  }
  if (stroke) {
    context.strokeStyle = stroke;
    context.stroke();
  }
}
