/** A small payload: 3 layers of 4 heads that share 2 key/value heads. */
import type { Circuit, Packed, Payload, Score } from "../src/data/schema.ts";

export function packed(numbers: number[], shape: number[], type: Packed["type"] = "float32", scale?: number): Packed {
  const kinds = { float32: Float32Array, int16: Int16Array, uint16: Uint16Array, uint8: Uint8Array };
  const bytes = new Uint8Array(kinds[type].from(numbers).buffer);
  return { type, shape, ...(scale === undefined ? {} : { scale }), base64: btoa(String.fromCharCode(...bytes)) };
}

export const zeros = (n: number): number[] => Array.from({ length: n }, () => 0);

export function score(id: string, task: string, method: string, mean: number[], q?: number[]): Score {
  const around = (step: number): Packed =>
    packed(
      mean.map((value) => value + step),
      [3, 4],
    );
  const part = {
    mean: packed(mean, [3, 4]),
    low: around(-0.3),
    high: around(0.4),
    q: packed(q ?? mean.map((value) => (Math.abs(value) > 0.5 ? 0.01 : 0.6)), [3, 4]),
  };
  return {
    id,
    run: id,
    model: "main",
    task,
    method,
    metric: "logit_diff",
    units: "logits",
    params: {},
    n_pairs: 2,
    parts: { heads: { ...part, pairs: packed([...mean, ...mean.map((value) => 2 * value)], [2, 3, 4]) } },
    checks: [],
    provenance: { prompts: "0", seed: 0 },
    python: "scores",
  };
}

export const circuit: Circuit = {
  id: "c",
  model: "main",
  task: "ioi",
  method: "patching",
  rule: "top 2",
  kind: "nodes",
  universe: 12,
  size: 2,
  elements: ["a2.h3", "a0.h1", "a1.h0"],
  weights: packed([3, -2, 1], [3]),
  edges: [
    { from: "a0.h1", to: "a2.h3", port: "q", weight: 0.5 },
    { from: "a0.h1", to: "a2.kv1", port: "k", weight: -0.7 },
    { from: "a1.h0", to: "a2.kv1", port: "v", weight: 0.2 },
    { from: "a2.h3", to: "logits", port: "in", weight: 0.9 },
    { from: "a0.h1", to: "a1.kv1", port: "v", weight: 0.4 },
  ],
  curves: [
    {
      ranking: "absolute",
      points: [
        { fraction: 0.1, size: 1, mean: 0.2, low: 0.1, high: 0.3 },
        { fraction: 0.25, size: 3, mean: 0.6, low: 0.4, high: 0.8 },
        { fraction: 1, size: 12, mean: 1 },
      ],
    },
  ],
  random: [{ size: 3, n: 10, mean: 0.1, low: 0, high: 0.2 }],
  conventions: {},
  python: "circuit",
};

export function payload(): Payload {
  return {
    schema: "circuitlab.explorer/1",
    title: "Test",
    level: 0.05,
    models: [
      {
        id: "main",
        name: "m",
        family: "f",
        n_layers: 3,
        n_heads: 4,
        n_kv_heads: 2,
        d_model: 8,
        d_head: 2,
        d_vocab: 9,
        dtype: "float32",
        identity: {},
        edited: false,
        python: "card {head}",
      },
    ],
    tasks: [
      { id: "ioi", name: "ioi", title: "IOI", description: "", variant: "", version: 1, verdicts: [] },
      { id: "succ", name: "succ", title: "Successor", description: "", variant: "", version: 1, verdicts: [] },
    ],
    methods: [{ name: "patching", title: "Patching", estimand: "e", sign: "s", additive: false, cite: [], citation: "" }],
    scores: [
      score("s1", "ioi", "patching", [0, 0.1, 0, 0, -2, 0, 0, 0, 0, 0, 0.6, 3]),
      score("s2", "succ", "patching", [1, 0.1, 0, 0, -2, 0, 0, 0, 0, 0, 0, 0]),
    ],
    prompts: [],
    roles: [
      {
        model: "main",
        name: "sink",
        title: "Sink",
        kind: "attention",
        estimand: "",
        units: "share",
        threshold: 0.5,
        reason: "r",
        null: "n",
        sample: "",
        n_samples: 1,
        per: "kv_head",
        value: packed([0, 1, 2, 3, 4, 5], [3, 2]),
        chance: packed(zeros(6), [3, 2]),
        q: packed(zeros(6), [3, 2]),
        earned: packed([0, 0, 0, 0, 0, 1], [3, 2], "uint8"),
        cite: [],
      },
    ],
    attention: [
      {
        model: "main",
        task: "ioi",
        pair: 0,
        side: "clean",
        heads: ["a0.h0", "a2.h3"],
        counts: packed([1, 1, 2, 1, 2, 1], [2, 3], "uint8"),
        keys: packed([0, 0, 2, 1, 0, 1, 0, 2], [8], "uint16"),
        weights: packed([10000, 9000, 6000, 3000, 10000, 7000, 2000, 5000], [8], "uint16", 0.0001),
        kept: packed([1, 0.9], [2]),
        value_norms: packed([1, 1, 1, 2, 1, 4], [2, 3]),
      },
    ],
    cards: [],
    circuits: [circuit],
    overlap: [],
    transfer: [],
    dissociation: [],
    absent: {},
    provenance: { versions: {}, runs: [], python: "p", command: "c" },
    citations: {},
  };
}
