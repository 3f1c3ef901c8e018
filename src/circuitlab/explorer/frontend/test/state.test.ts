import assert from "node:assert/strict";
import { test } from "node:test";
import { checked, fromFile, fromHash, toFile, toHash } from "../src/state/hash.ts";
import { changed, initial, metricKey, restored } from "../src/state/state.ts";
import { payload } from "./example.ts";

test("a page starts with its first scores and their circuit", () => {
  const state = initial(payload());
  assert.deepEqual([state.task, state.method, state.circuit, state.size, state.b], ["ioi", "patching", "c", 2, "s2"]);
  assert.equal(metricKey(payload(), state), "score:s1");
});

test("state survives the address and a file", () => {
  const start = initial(payload());
  const state = {
    ...start,
    view: "circuit" as const,
    task: "succ",
    node: "a2.h3",
    pins: ["a0.h1", "a2.h3"],
    brush: [-1, 0.5, 0, 2],
    weighted: true,
    first: false,
    groups: [
      { name: "movers & <b>", nodes: ["a0.h1", "a2.kv1", "a1.h0@S2"] },
      { name: "open", nodes: ["logits", "m1"], open: true },
    ],
    labels: { "a2.h3": "name=mover&x" },
    size: 3,
    theme: "dark" as const,
  };
  assert.deepEqual(restored(payload(), fromHash(`#${toHash(state, start)}`)).state, state);
  assert.deepEqual(restored(payload(), fromFile(JSON.parse(toFile(state, "Test")))).state, state);
  assert.equal(toHash(start, start), "");
});

test("what is not of this page is dropped and said", () => {
  const { state, dropped } = restored(payload(), { task: "nope", node: "a9.h9", pins: ["a0.h0", "a7.h7"], a: "s9" });
  assert.deepEqual([state.task, state.node, state.pins, state.a], ["ioi", "", ["a0.h0"], "s1"]);
  assert.deepEqual(dropped.length, 4);
});

test("nodes of groups and labels that the model does not have are dropped and said", () => {
  const saved = {
    groups: [
      { name: "mine", nodes: ["a2.h3", "a9.h6", "x"] },
      { name: "none", nodes: ["a9.kv0"] },
    ],
    labels: { "a2.h3": "m", zzz: "n" },
  };
  const { state, dropped } = restored(payload(), saved);
  assert.deepEqual([state.groups, state.labels], [[{ name: "mine", nodes: ["a2.h3"] }], { "a2.h3": "m" }]);
  assert.deepEqual(dropped, ["4 names of nodes in groups and labels"]);
});

test("values of the wrong kind are not taken", () => {
  assert.deepEqual(
    checked({ view: "<script>", size: -7, pins: "a0.h1", labels: { x: 3 }, groups: [{ name: 1 }], weighted: 1, theme: "red", brush: [1] }),
    {},
  );
  assert.deepEqual(fromHash("#groups={&size=x&labels=[]"), { labels: {} });
  assert.throws(() => fromFile({ schema: "other", state: {} }), /not a saved view/);
  assert.throws(() => fromFile(null), /not a saved view/);
});

test("another task brings its circuit and its first pair", () => {
  const data = payload();
  data.circuits.push({ ...data.circuits[0], id: "c2", task: "succ", size: 1 });
  const state = changed(data, { ...initial(data), pair: 1, query: 2 }, { task: "succ" });
  assert.deepEqual([state.circuit, state.size, state.pair, state.query], ["c2", 1, 0, -1]);
  assert.equal(changed(data, { ...state, query: 2 }, { pair: 1 }).query, -1);
});
