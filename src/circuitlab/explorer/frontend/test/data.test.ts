import assert from "node:assert/strict";
import { test } from "node:test";
import { pattern, weightedByValue } from "../src/data/attention.ts";
import { cut, faithfulnessAt, incoming, readEdge } from "../src/data/circuits.ts";
import { gathered } from "../src/data/groups.ts";
import { column, ranked } from "../src/data/metrics.ts";
import { find } from "../src/data/find.ts";
import { isNode, readHead } from "../src/data/nodes.ts";
import { perPair, scoresOf } from "../src/data/node-scores.ts";
import { open, UnreadableData } from "../src/data/open.ts";
import { raw, values } from "../src/data/packed.ts";
import { overlapsOf, strongest } from "../src/data/compare.ts";
import { transferPython } from "../src/data/snippets.ts";
import { sidesOf } from "../src/data/sides.ts";
import { circuit, packed, payload } from "./example.ts";

test("packed numbers of every type come back, and what is not known is NaN", () => {
  assert.deepEqual([...values(packed([1.5, -2], [2]))], [1.5, -2]);
  assert.deepEqual([...values(packed([4, -32768, -2], [3], "int16", 0.5))], [2, NaN, -1]);
  assert.deepEqual(
    [...values(packed([7, 65535], [2], "uint16", 0.0001))].map((x) => Math.round(x * 1e4)),
    [7, 65535],
  );
  assert.deepEqual([...raw(packed([0, 255], [2], "uint8"))], [0, 255]);
  assert.throws(() => raw({ ...packed([1, 2], [2]), shape: [3] }), /damaged/);
});

test("data of another version, or no data, is refused with a sentence", () => {
  assert.equal(open(payload()).title, "Test");
  assert.equal(open(JSON.stringify(payload())).title, "Test");
  assert.throws(
    () => open({ ...payload(), schema: "circuitlab.explorer/2" }),
    /is of version "circuitlab.explorer\/2"; this explorer reads circuitlab.explorer\/1/,
  );
  for (const bad of [null, 3, {}, "{", { ...payload(), cards: null }, { ...payload(), models: [] }])
    assert.throws(() => open(bad), UnreadableData);
});

test("names of nodes are read in the common ways", () => {
  for (const name of ["a9.h6", "9.6", "L9H6", "l9.h6", " a9h6 "]) assert.deepEqual(readHead(name), { layer: 9, head: 6 });
  for (const name of ["a9", "m3", "a9.kv2", "a9.h6x", ""]) assert.equal(readHead(name), null);
  const model = payload().models[0];
  assert.deepEqual(
    ["a2.h3", "a3.h0", "a0.h4", "m2", "m3", "<b>"].map((name) => isNode(model, name)),
    [true, false, false, true, false, false],
  );
});

test("a column says which heads are distinguishable, and ranks by magnitude", () => {
  const data = payload(),
    model = data.models[0];
  const scores = column(data, model, "score:s1")!;
  assert.deepEqual([...scores.distinct], [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1]);
  assert.deepEqual(
    ranked(model, scores)
      .slice(0, 3)
      .map((one) => [one.name, one.rank]),
    [
      ["a2.h3", 1],
      ["a1.h0", 2],
      ["a2.h2", 3],
    ],
  );
  assert.equal(column(data, model, "score:none"), null);
});

test("roles of key/value heads stand at every query head that shares one, ranked by value", () => {
  const data = payload(),
    model = data.models[0];
  const role = column(data, model, "role:sink")!;
  assert.equal(role.shared, true);
  assert.deepEqual([...role.mean], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
  assert.deepEqual([...role.distinct].slice(-4), [0, 0, 1, 1]);
  assert.equal(ranked(model, role)[0].name, "a2.h2");
});

test("a difference has an interval of both half-widths, and 0 outside it is said", () => {
  const data = payload(),
    model = data.models[0];
  const difference = column(data, model, "diff:s1|s2")!;
  assert.equal(difference.mean[0], -1);
  assert.ok(Math.abs(difference.low![0] - (-1 - Math.hypot(0.3, 0.4))) < 1e-6);
  assert.ok(Math.abs(difference.high![0] - (-1 + Math.hypot(0.4, 0.3))) < 1e-6);
  assert.deepEqual([difference.distinct[0], difference.distinct[4], difference.distinct[11]], [1, 0, 1]);
});

test("every pair of a head is read at its place, and its rank counts all heads", () => {
  const data = payload(),
    model = data.models[0];
  assert.deepEqual([...perPair(model, data.scores[0], "a2.h3")!], [3, 6]);
  const [first] = scoresOf(data, model, "a1.h0");
  assert.deepEqual([first.mean, first.rank, first.of], [-2, 2, 12]);
  assert.equal(perPair(model, data.scores[0], "m0"), null);
});

test("sparse attention is put back in its rows, and heads that are not listed are none", () => {
  const entry = payload().attention[0];
  const rows = pattern(entry, "a0.h0")!;
  assert.deepEqual(
    [...rows.weights].map((x) => Math.round(x * 10) / 10),
    [1, 0, 0, 0.9, 0, 0, 0, 0.3, 0.6],
  );
  const other = pattern(entry, "a2.h3")!;
  assert.deepEqual(
    [...other.weights].map((x) => Math.round(x * 10) / 10),
    [1, 0, 0, 0.2, 0.7, 0, 0, 0, 0.5],
  );
  assert.equal(pattern(entry, "a1.h1"), null);
  const weighted = weightedByValue(other)!;
  assert.ok(Math.abs(weighted[3] - 0.4 / 1.1) < 1e-6);
  assert.ok(Math.abs(weighted[3] + weighted[4] - 1) < 1e-6);
});

test("both sides share one scale, which can leave the first token out", () => {
  const data = payload();
  data.attention.push({
    ...data.attention[0],
    side: "corrupt",
    weights: packed([10000, 9000, 4000, 5000, 10000, 2000, 7000, 5000], [8], "uint16", 0.0001),
  });
  const wanted = { model: "main", task: "ioi", pair: 0, head: "a2.h3", weighted: false, first: true };
  const sides = sidesOf(data, wanted)!;
  assert.equal(sides.limit, 1);
  assert.ok(Math.abs(sides.difference![4] - 0.5) < 1e-6);
  assert.ok(Math.abs(sidesOf(data, { ...wanted, first: false })!.limit - 0.7) < 1e-6);
  assert.equal(sidesOf(data, { ...wanted, pair: 1 }), null);
});

test("a circuit at a size hides the rest, and edges into shared keys and values stay", () => {
  const model = payload().models[0];
  const two = cut(circuit, 2, model);
  assert.deepEqual(two.nodes, ["a0.h1", "a2.h3", "a2.kv1", "logits"]);
  assert.deepEqual([two.hidden, two.unlisted, two.edges.length], [10, 9, 3]);
  assert.deepEqual(
    cut(circuit, 3, model)
      .edges.map((edge) => `${edge.from} ${edge.to} ${edge.port}`)
      .includes("a1.h0 a2.kv1 v"),
    true,
  );
  assert.deepEqual(
    incoming(two.edges, "a2.kv1").map((edge) => edge.weight),
    [-0.7],
  );
  const edges = cut({ ...circuit, kind: "edges", elements: ["a0.h1->a2.h3<q>", "m0->logits"], edges: [] }, 2, model);
  assert.deepEqual(edges.nodes, ["a0.h1", "m0", "a2.h3", "logits"]);
  assert.deepEqual(readEdge("m0->logits"), { from: "m0", to: "logits", port: "in" });
});

test("faithfulness comes from the stored curve, between its sizes on a line, and nowhere else", () => {
  const points = circuit.curves[0].points;
  assert.deepEqual(faithfulnessAt(points, 3), { mean: 0.6, low: 0.4, high: 0.8, between: [3, 3] });
  const between = faithfulnessAt(points, 2)!;
  assert.ok(Math.abs(between.mean - 0.4) < 1e-12);
  assert.deepEqual(between.between, [1, 3]);
  assert.equal(faithfulnessAt(points, 6)!.low, null);
  assert.equal(faithfulnessAt(points, 0), null);
  assert.equal(faithfulnessAt([], 5), null);
});

test("the finder reads names and roles", () => {
  const data = payload(),
    model = data.models[0];
  assert.deepEqual(
    find(data, model, "a2.h3", "score:s1").map((hit) => hit.node),
    ["a2.h3"],
  );
  assert.deepEqual(
    find(data, model, "a1", "score:s1").map((hit) => hit.node),
    ["a1.h0", "a1.h1", "a1.h2", "a1.h3"],
  );
  assert.equal(find(data, model, "sink", "score:s1")[0].node, "a2.h2");
  assert.match(find(data, model, "sink", "score:s1")[0].why, /earned/);
  assert.deepEqual(find(data, model, "a7.h1", "score:s1"), []);
  assert.equal(find(data, model, "", "score:s1")[0].node, "a2.h3");
});

test("the finder reads labels, and tokens that the last token looks at", () => {
  const data = payload(),
    model = data.models[0],
    around = { task: "ioi", labels: { "a1.h2": "my mover" } };
  assert.deepEqual(find(data, model, "mover", "score:s1", around), [{ node: "a1.h2", why: "labelled my mover" }]);
  const pair = { clean: ["The", " Mary", " to"], corrupt: [], answer: "x", end: 2, marks: {} };
  data.prompts.push({ model: "main", task: "ioi", pairs: [pair], python: "" });
  assert.deepEqual(find(data, model, "mary", "score:s1", around), [{ node: "a0.h0", why: "last token looks at \u00b7Mary: 0.30, pair 0" }]);
  assert.deepEqual(
    find(data, model, " to", "score:s1", around).map((hit) => hit.node),
    ["a0.h0", "a2.h3"],
  );
  assert.deepEqual(find(data, model, "no such token", "score:s1", around), []);
});

test("Python of a transfer names the model of each score, and says where one is edited", () => {
  const data = payload();
  data.models.push({ ...data.models[0], id: "other", edited: true });
  const code = transferPython(data, data.scores[0], { ...data.scores[1], model: "other" });
  assert.equal(code.split("cl.load_model").length - 1, 2);
  assert.equal(code.split("model.edited(...)").length - 1, 1);
});

test("an overlap is found in either order, and the strongest heads are counted", () => {
  const data = payload(),
    model = data.models[0];
  const entry = { k: 3, shared: ["a1.h0"], count: 1, expected: 0.75, null: "n", p: 0.2, p_corrected: 0.2, python: "" };
  data.overlap = [{ a: "s2", b: "s1", ...entry }];
  assert.equal(overlapsOf(data, "s1", "s2").length, 1);
  assert.deepEqual(strongest(data, model, data.scores[0], 2), ["a2.h3", "a1.h0"]);
});

test("a group's edges are merged with their sum and number, and those inside it are left out", () => {
  const model = payload().models[0],
    shown = cut(circuit, 3, model);
  const whole = gathered(shown, [{ name: "early", nodes: ["a0.h1", "a1.h0"] }], model);
  assert.deepEqual(
    whole.boxes.get("group:0")!.members.sort(),
    ["a0.h1", "a1.h0", "a1.kv0"].filter((name) => shown.nodes.includes(name)).sort(),
  );
  assert.ok(whole.nodes.includes("group:0") && !whole.nodes.includes("a0.h1") && whole.nodes.includes("a2.h3"));
  const total = (edges: { weight: number }[]): number => edges.reduce((sum, edge) => sum + edge.weight, 0);
  const inside = shown.edges.filter((edge) => whole.home.get(edge.from) && whole.home.get(edge.from) === whole.home.get(edge.to));
  assert.equal(whole.within, inside.length);
  assert.ok(Math.abs(total(whole.edges) + total(inside) - total(shown.edges)) < 1e-9);
  assert.equal(whole.edges.reduce((sum, edge) => sum + (edge.of ?? 1), 0) + inside.length, shown.edges.length);
  const both = gathered(
    {
      ...shown,
      edges: [
        { from: "a0.h1", to: "a2.kv1", port: "k", weight: -0.7, low: -1, high: 0 },
        { from: "a1.h0", to: "a2.kv1", port: "k", weight: 0.2 },
      ],
    },
    [{ name: "early", nodes: ["a0.h1", "a1.h0"] }],
    model,
  );
  assert.deepEqual(both.edges, [{ from: "group:0", to: "a2.kv1", port: "k", weight: -0.7 + 0.2, of: 2 }]);
});

test("an open group is drawn node by node, and a key/value head goes into a box only with all drawn heads that share it", () => {
  const model = payload().models[0],
    shown = cut(circuit, 3, model);
  const groups = [{ name: "late", nodes: ["a2.h3"] }];
  assert.deepEqual(gathered(shown, [{ ...groups[0], open: true }], model).nodes, shown.nodes);
  assert.ok(gathered(shown, groups, model).boxes.get("group:0")!.members.includes("a2.kv1"));
  const wider = { ...shown, nodes: [...shown.nodes, "a2.h2"] };
  assert.deepEqual(gathered(wider, groups, model).boxes.get("group:0")!.members, ["a2.h3"]);
  assert.deepEqual(gathered(shown, [{ name: "elsewhere", nodes: ["a0.h0"] }], model).boxes.size, 0);
});
