import assert from "node:assert/strict";
import { test } from "node:test";
import { cut } from "../src/data/circuits.ts";
import { gathered } from "../src/data/groups.ts";
import { column } from "../src/data/metrics.ts";
import { hatch, type Scene, stack } from "../src/scene/scene.ts";
import { escaped, svgText } from "../src/scene/svg.ts";
import { csv, interval, number, probability, signed, tokenText } from "../src/ui/format.ts";
import { divergingScale, inkOn, palette } from "../src/ui/theme.ts";
import { layoutOf, portX, spread } from "../src/views/circuit-layout.ts";
import { circuitScene } from "../src/views/circuit-scene.ts";
import { fromSlider, toSlider } from "../src/views/faithfulness.tsx";
import { boxOf, cellAt, geometry, gridScene } from "../src/views/grid-scene.ts";
import { neighbour } from "../src/views/graph.tsx";
import { insideBrush } from "../src/views/scatter-scene.ts";
import { dotsOf } from "../src/views/strip.tsx";
import type { Circuit } from "../src/data/schema.ts";
import { circuit, packed, payload } from "./example.ts";

const model = { ...payload().models[0] };

test("every cell of a map is hit where it is drawn, at 30 x 9 and at 80 x 64", () => {
  for (const [layers, heads, groups, width] of [
    [30, 9, 3, 600],
    [80, 64, 8, 640],
    [80, 64, 8, 330],
    [12, 12, 12, 300],
  ]) {
    const g = geometry({ ...model, n_layers: layers, n_heads: heads, n_kv_heads: groups }, width, true);
    for (const cell of [
      { layer: 0, head: 0, mlp: false },
      { layer: layers - 1, head: heads - 1, mlp: false },
      { layer: 5, head: Math.floor(heads / 2), mlp: false },
      { layer: 3, head: -1, mlp: true },
    ]) {
      const box = boxOf(g, cell);
      assert.deepEqual(cellAt(g, box.x + box.w / 2, box.y + box.h / 2), cell);
    }
    assert.equal(cellAt(g, 2, 20), null);
    assert.ok(g.w >= 4.5 && g.h >= 7);
  }
});

test("a map hatches what is not distinguishable, and only that", () => {
  const data = payload(),
    g = geometry(model, 400, false),
    colours = palette("light");
  const scene = gridScene(g, column(data, model, "score:s1")!, colours, { legend: false });
  const marks = scene.shapes.find((shape) => shape.kind === "path")!;
  const strokes = [...(marks as { d: string }).d.matchAll(/M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)/g)].map((match) =>
    match.slice(1).map(Number),
  );
  const inside = (layer: number, head: number): boolean => {
    const box = boxOf(g, { layer, head, mlp: false });
    return strokes.some(([x1, y1, x2, y2]) => {
      const x = (x1 + x2) / 2,
        y = (y1 + y2) / 2;
      return x > box.x && x < box.x + box.w && y > box.y && y < box.y + box.h;
    });
  };
  assert.equal(inside(0, 0), true);
  assert.equal(inside(2, 3), false);
  assert.equal(inside(1, 0), false);
  assert.equal(scene.shapes.filter((shape) => shape.kind === "rect").length, 12);
});

test("hatches stay inside their rectangle", () => {
  for (const [x, y, w, h] of [
    [0, 0, 10, 10],
    [13.5, 7, 30, 9],
    [3, 90, 4, 40],
  ]) {
    for (const match of hatch(x, y, w, h, 5).matchAll(/[ML](-?[\d.]+) (-?[\d.]+)/g)) {
      assert.ok(
        Number(match[1]) >= x - 0.01 &&
          Number(match[1]) <= x + w + 0.01 &&
          Number(match[2]) >= y - 0.01 &&
          Number(match[2]) <= y + h + 0.01,
      );
    }
  }
});

test("an SVG file holds text as text", () => {
  const scene: Scene = {
    width: 10,
    height: 10,
    title: "</title><script>",
    shapes: [{ kind: "text", x: 1, y: 2, text: '<img onerror="x">&\u0007', size: 10, fill: "#000000" }],
  };
  const text = svgText(stack("s & t", [scene, scene]), "#ffffff");
  assert.equal(text.includes("<img"), false);
  assert.equal(text.includes("<script"), false);
  assert.ok(text.includes("&lt;img onerror=&quot;x&quot;&gt;&amp;\ufffd"));
  assert.equal(escaped("a<b"), "a&lt;b");
});

test("numbers read as people write them", () => {
  assert.deepEqual(
    [0.123456, -1.5, 0, 12345.6, 0.00001, null, NaN].map((x) => number(x)),
    ["0.123", "\u22121.50", "0", "12346", "1.00e\u22125", "not known", "not known"],
  );
  assert.deepEqual(
    [signed(2), interval(-1, 2), interval(null, 2), probability(0.0001), probability(0.25)],
    ["+2.00", "[\u22121.00, +2.00]", "", "< 0.001", "0.250"],
  );
  assert.deepEqual([" a", "\n", "", "\u202etxet"].map(tokenText), ["\u00b7a", "\u21b5", "\u2205", "\ufffdtxet"]);
});

test("a CSV cell can neither break its row nor run in a spreadsheet", () => {
  assert.equal(
    csv([
      ["a,b", 'say "x"', "=1+1", -2, null, NaN],
      ["@x", "\n", true, 0.5],
    ]),
    '"a,b","say ""x""",\'=1+1,-2,,\n\'@x,"\n",true,0.5\n',
  );
});

test("0 is neutral on the diverging scale, and text on any colour can be read", () => {
  for (const theme of ["light", "dark"] as const) {
    const colours = palette(theme),
      scale = divergingScale(colours, 2);
    const grey = scale(0).match(/\d+/g)!.map(Number);
    assert.ok(Math.max(...grey) - Math.min(...grey) <= 18);
    assert.notEqual(scale(2), scale(-2));
    assert.equal(scale(99), scale(2));
  }
  assert.deepEqual([inkOn("#ffffff"), inkOn("rgb(0, 0, 40)")], ["#101418", "#ffffff"]);
});

test("layers of a circuit go upwards, nodes do not touch, and ports have places of their own", () => {
  const shown = gathered(cut(circuit, 3, model), [], model),
    layout = layoutOf(shown, model, { width: 400, marks: [] });
  const y = (name: string): number => layout.nodes.get(name)!.y;
  assert.ok(y("logits") < y("a2.h3") && y("a2.h3") < y("a2.kv1") && y("a2.kv1") < y("a1.h0") && y("a1.h0") < y("a0.h1"));
  const head = layout.nodes.get("a2.h3")!;
  assert.ok(portX(head, "q") < portX(head, "k") && portX(head, "k") < portX(head, "v"));
  assert.deepEqual(spread([5, 5, 5], [10, 10, 10], 0, 100), [5, 15, 25]);
  assert.deepEqual(spread([95, 99, 99], [10, 20, 10], 0, 100), [65, 80, 95]);
  const scene = circuitScene(
    layout,
    shown.edges,
    { weights: new Map(), limit: 1, labels: {}, groups: [], boxes: shown.boxes, chosen: [], selected: "" },
    palette("light"),
    "t",
  );
  const wires = scene.shapes.filter((shape) => shape.key?.includes("->"));
  assert.equal(wires.length, shown.edges.length);
  assert.ok((wires.find((shape) => shape.key === "a0.h1->a2.kv1<k>") as { dash?: number[] }).dash, "negative edges are dashed");
  assert.equal(neighbour(layout, "a0.h1", "ArrowUp"), "a1.kv1" in Object.fromEntries(layout.nodes) ? "a1.kv1" : "a1.h0");
});

test("the slider reaches every size of a small circuit and both ends of a large one", () => {
  for (let size = 1; size <= 270; size++) assert.equal(fromSlider(toSlider(size, 270), 270), size);
  assert.deepEqual([fromSlider(toSlider(5120, 5120), 5120), fromSlider(1, 5120) <= 1], [5120, true]);
});

test("the brush marks what is inside it", () => {
  const data = payload(),
    x = column(data, model, "score:s1")!,
    y = column(data, model, "score:s2")!;
  assert.deepEqual([...insideBrush(x, y, [2, 4, -1, 1])!], [11]);
  assert.equal(insideBrush(x, y, []), null);
});

test("dots of a strip keep their value and do not cover each other", () => {
  const { dots, at } = dotsOf(Float32Array.from([1, 1, 1, 2, NaN]), 300);
  assert.equal(dots.length, 4);
  const wide = dotsOf(Float32Array.from([1, 2]), 300, [-3, 5, null]);
  assert.ok(wide.at(-3) >= 8 && wide.at(5) <= 292, "an interval wider than the dots stays inside");
  for (const dot of dots) assert.ok(Math.abs(dot.x - at(dot.value)) < 1e-9);
  for (const [i, a] of dots.entries()) for (const b of dots.slice(i + 1)) assert.ok(Math.hypot(a.x - b.x, a.y - b.y) >= 9);
});

test("a group is one box among its layers, wide enough for its name, and its lines carry their number", () => {
  const groups = [{ name: "movers with a long name", nodes: ["a2.h3", "a1.h0"] }];
  const shown = gathered(cut(circuit, 3, model), groups, model),
    layout = layoutOf(shown, model, { width: 400, marks: [] });
  const box = layout.nodes.get("group:0")!;
  assert.equal(box.kind, "group");
  assert.ok(box.w > 150 && layout.nodes.get("logits")!.y < box.y && box.y < layout.nodes.get("a0.h1")!.y);
  const look = { weights: new Map(), limit: 1, labels: {}, groups, boxes: shown.boxes, chosen: [], selected: "" };
  const said = circuitScene(layout, shown.edges, look, palette("light"), "t").shapes.flatMap((shape) =>
    shape.kind === "text" ? [shape.text] : [],
  );
  assert.ok(said.includes("movers with a long name") && said.includes("2 nodes, layers 1\u20132"), said.join("; "));
  assert.ok(!said.includes("a2.h3") && said.includes("a0.h1"));
});

test("a circuit at positions has a column for each, in the order of the prompt", () => {
  const at: Circuit = { ...circuit, elements: ["a2.h3@S2", "a2.h3@IO", "a0.h1@IO", "a1.h0@S2"], weights: packed([3, -2, 1, 0.5], [4]) };
  const shown = gathered(cut({ ...at, edges: [] }, 4, model), [], model),
    layout = layoutOf(shown, model, { width: 400, marks: ["IO", "S2"] });
  const x = (name: string): number => layout.nodes.get(name)!.x;
  assert.deepEqual(
    layout.columns.map((column) => column.label),
    ["IO", "S2"],
  );
  assert.ok(x("a2.h3@IO") < layout.columns[1].x && x("a0.h1@IO") < layout.columns[1].x);
  assert.ok(x("a2.h3@S2") > layout.columns[1].x && x("a1.h0@S2") > layout.columns[1].x);
  assert.equal(layout.nodes.get("a2.h3@S2")!.y, layout.nodes.get("a2.h3@IO")!.y);
});
