/** Made from schema.json by `npm run types`; do not edit. */

export const SCHEMA = "circuitlab.explorer/1";

/** The data of one page of the explorer. Parts that were not measured are left out or empty, never null; absent says why. */
export type Payload = {
  schema: "circuitlab.explorer/1";
  title: string;
  /** q at or below this is distinguishable from chance. */
  level: number;
  models: Model[];
  tasks: Task[];
  methods: Method[];
  scores: Score[];
  prompts: Prompts[];
  roles: Role[];
  attention: Attention[];
  cards: Card[];
  circuits: Circuit[];
  overlap: Overlap[];
  transfer: Transfer[];
  dissociation: Dissociation[];
  /** What a view cannot show, with the reason and the command that measures it; by list, such as attention, or list/id, such as attention/ioi or roles/retrieval. */
  absent: Record<string, string>;
  provenance: {
    versions: Record<string, string>;
    runs: string[];
    study?: string;
    /** Python that makes this page. */
    python: string;
    /** Command that makes this page. */
    command: string;
  };
  /** BibTeX by key; circuitlab's own is circuitlab. */
  citations: Record<string, string>;
};

/** A mean with its 95 % interval; limits are left out where there are none (one pair, weights alone). */
export type Interval = {
  mean: number;
  low?: number;
  high?: number;
};

/** Numbers of one array, compactly. */
export type Packed = {
  type: "float32" | "int16" | "uint16" | "uint8";
  shape: number[];
  /** An integer times the scale is the value; 1 if left out. */
  scale?: number;
  /** Little-endian, C order. NaN (float32) or -32768 (int16) is a value that is not known. */
  base64: string;
};

/** A query head, a9.h6: layer 9, head 6. */
export type Head = string;

/** a9.h6 a query head, a9.kv2 a key/value head, m3 an MLP, embed, logits. */
export type Node = string;

export type Model = {
  /** By which the rest of the payload names it; the first model is the main one. */
  id: string;
  name: string;
  family: string;
  n_layers: number;
  n_heads: number;
  n_kv_heads: number;
  d_model: number;
  d_head: number;
  d_vocab: number;
  dtype: string;
  /** Weights, configuration, processing, dtype and edits, as hashes. */
  identity: Record<string, string>;
  /** Whether interventions act in every run. */
  edited: boolean;
  /** Python that gives a head's card; {head} stands for its name. */
  python: string;
};

export type Task = {
  /** By which the rest of the payload names it, such as ioi or ioi:names. */
  id: string;
  name: string;
  title: string;
  description: string;
  variant: string;
  version: number;
  cite?: string[];
  /** Whether a model can do the task; empty where it was not judged. */
  verdicts: {
    model: string;
    ready: boolean;
    /** The verdict in one sentence. */
    sentence: string;
    accuracy: Interval;
    /** The metric on the clean prompt minus that on the corrupt one. */
    gap: Interval;
    chance: number;
    /** Accuracy that the model must reach. */
    gate: number;
  }[];
};

export type Method = {
  name: string;
  title: string;
  estimand: string;
  /** What positive means. */
  sign: string;
  /** Whether scores sum to the whole. */
  additive: boolean;
  cite: string[];
  citation: string;
  /** Its score on planted circuits. */
  planted?: {
    /** In one sentence, how it did where the circuit is known. */
    grade: string;
    measures: Record<string, number | string | boolean>;
    run?: string;
  };
};

/** Scores of one kind of node. Without prompts there is only the mean. */
export type Part = {
  /** (layer, head), (layer, kv_head) or (layer,). */
  mean: Packed;
  low?: Packed;
  high?: Packed;
  /** That the mean is 0: t-test over pairs, corrected over all nodes of the part (Benjamini-Hochberg). */
  q?: Packed;
  /** (pair, layer, ...): the score of every pair. */
  pairs?: Packed;
};

export type Check = {
  name: string;
  ok: boolean;
  value: number;
  sentence: string;
};

/** One task with one method. */
export type Score = {
  /** Unique: the run, and the mark if scores are resolved by mark. */
  id: string;
  run: string;
  model: string;
  /** Left out for scores from weights alone. */
  task?: string;
  method: string;
  /** Token position that the scores are of. */
  mark?: string;
  metric: string;
  units: string;
  params: Record<string, unknown>;
  n_pairs: number;
  parts: {
    heads?: Part;
    kv_heads?: Part;
    mlps?: Part;
  };
  /** (pair,): metric of the clean run. */
  clean?: Packed;
  /** (pair,): metric of the corrupt run. */
  corrupt?: Packed;
  /** (pair,): the whole that scores are shares of. */
  total?: Packed;
  checks: Check[];
  /** Why the task is not ready. */
  warning?: string;
  provenance: {
    created?: string;
    seconds?: number;
    packages?: Record<string, string>;
    /** Hash of the prompts. */
    prompts: string;
    seed: number;
    /** Rows left out, by reason. */
    dropped?: Record<string, number>;
  };
  /** Python that gives these scores. */
  python: string;
};

export type Pair = {
  /** Tokens as text. */
  clean: string[];
  corrupt: string[];
  answer: string;
  foil?: string;
  /** Position of the last token, whose next token is the answer. */
  end: number;
  /** Positions of the named tokens. */
  marks: Record<string, number>;
};

export type Prompts = {
  model: string;
  task: string;
  /** In the order of scores' pairs; the first ones if there are fewer. */
  pairs: Pair[];
  /** Python that gives the attention of a head; {head} and {pair} stand for name and number. */
  python: string;
};

export type Role = {
  model: string;
  name: string;
  title: string;
  /** attention, weights or behaviour. */
  kind: string;
  estimand: string;
  units: string;
  /** The least value that earns the role. */
  threshold: number;
  /** What earning takes: threshold and null, in words. */
  reason: string;
  null: string;
  /** What a sample is; empty for weights alone. */
  sample: string;
  n_samples: number;
  per: "head" | "kv_head";
  value: Packed;
  low?: Packed;
  high?: Packed;
  /** 95th percentile of what chance gives. */
  chance: Packed;
  q: Packed;
  /** uint8, 0 or 1. */
  earned: Packed;
  cite: string[];
};

/** Attention on one prompt: at most 8 keys of a query, none below 0.01. */
export type Attention = {
  model: string;
  task: string;
  pair: number;
  side: "clean" | "corrupt";
  /** Heads whose rows are listed: all heads, or the strongest ones of a large model. */
  heads: Head[];
  /** uint8, (listed head, query): number of keys that are kept. */
  counts: Packed;
  /** Positions of kept keys of all rows in turn, strongest first. */
  keys: Packed;
  /** Their weights, uint8 with scale 0.004. */
  weights: Packed;
  /** (listed head,): share of the attention mass of all queries that is kept. */
  kept: Packed;
  /** (listed head, key): norm of what the head writes for the key's value (value times output matrix). */
  value_norms?: Packed;
};

export type Written = {
  token: string;
  token_id: number;
  promoted: string[];
  suppressed: string[];
  rank: number;
  vocabulary: number;
  null_low: number;
  null_median: number;
  null_high: number;
  n_null: number;
  p: number;
  q: number;
};

export type Loading = {
  writer: string;
  share: number;
};

export type Why = {
  task: string;
  pair: number;
  query: number;
  query_token: string;
  key: number;
  key_token: string;
  against: string | null;
  weight: number;
  score: number;
  residual: number;
  query_loadings: Loading[];
  key_loadings: Loading[];
  terms: {
    query_writer: string;
    key_writer: string;
    term: number;
  }[];
};

export type Knockout = {
  task: string;
  how: string;
  metric: string;
  units: string;
  n_pairs: number;
  clean: NullableInterval;
  without: NullableInterval;
  change: NullableInterval;
};

export type NullableInterval = {
  mean: number | null;
  low: number | null;
  high: number | null;
};

export type Continuation = {
  source: string;
  how: string;
  prompt: string;
  with_head: string;
  without: string;
  same: boolean;
};

export type Similar = {
  by: "roles" | "ov";
  head: Head;
  similarity: number;
  rank: number;
  heads: number;
};

export type Spot = {
  passage: number;
  position: number;
  decile: number;
  /** Norm of what the head adds to the stream here. */
  activation: number;
  /** Direct effect on the true next token, in logits. */
  effect: number;
  before: string[];
  token: string;
  /** The token that really follows. */
  following: string;
  /** Position, token, weight; strongest first. */
  attended: unknown[][];
};

/** The head on natural text; see HeadOnText. */
export type OnText = {
  n_passages: number;
  n_positions: number;
  n_heads: number;
  /** Mean direct effect over passages, in logits. */
  effect: number;
  low?: number;
  high?: number;
  /** Positions where no head has a larger direct effect. */
  wins: number;
  top: Spot[];
  winning: Spot[];
  deciles: {
    /** 1 lowest, 10 highest. */
    number: number;
    low: number;
    high: number;
    effect: number;
    spots: Spot[];
  }[];
};

/** The measured parts of a head's card; scores, roles and attention stand in their own lists. */
export type Card = {
  model: string;
  head: Head;
  tokens?: {
    entries: Written[];
    /** What is not known, with the reason, by what it is about. */
    absent: Record<string, string>;
  };
  why?: {
    entries: Why[];
    /** What is not known, with the reason, by what it is about. */
    absent: Record<string, string>;
  };
  knockout?: {
    entries: Knockout[];
    /** What is not known, with the reason, by what it is about. */
    absent: Record<string, string>;
  };
  continuations?: {
    entries: Continuation[];
    /** What is not known, with the reason, by what it is about. */
    absent: Record<string, string>;
  };
  similar?: {
    entries: Similar[];
    /** What is not known, with the reason, by what it is about. */
    absent: Record<string, string>;
  };
  on_text?: OnText;
};

export type Curve = {
  ranking: "absolute" | "signed";
  points: {
    fraction: number;
    size: number;
    mean: number;
    low?: number;
    high?: number;
  }[];
  cpr?: Interval;
  cmd?: Interval;
};

export type Edge = {
  from: Node;
  to: Node;
  /** Input of a head that the edge enters; in for MLPs and logits. */
  port: "q" | "k" | "v" | "in";
  weight: number;
  low?: number;
  high?: number;
  mark?: string;
};

export type Circuit = {
  id: string;
  model: string;
  task: string;
  method: string;
  rule: string;
  kind: "nodes" | "edges";
  /** Id of the scores that it was ranked by. */
  score?: string;
  /** Number of elements that can be kept or ablated. */
  universe: number;
  /** Number of elements of the circuit itself. */
  size: number;
  /** Names of nodes (a9.h6, m3; with marks, a9.h6@S2) or, where kind is edges, of edges (a9.h6->a10.h0<q>), ranked by magnitude, strongest first; may be fewer than the universe. */
  elements: string[];
  /** Positions of a circuit whose elements are nodes at positions, in the order of the prompt. */
  marks?: string[];
  /** (element,): mean scores, in the order of elements. */
  weights: Packed;
  low?: Packed;
  high?: Packed;
  /** By magnitude; of a circuit of nodes, the stored scores of edges between them. */
  edges?: Edge[];
  edges_method?: string;
  /** Number of edges of the model, of which the strongest are listed. */
  edges_total?: number;
  /** Of the circuit itself. */
  faithfulness?: Interval;
  /** Faithfulness over size as stored; empty where it was not measured. */
  curves: Curve[];
  /** Faithfulness of random circuits: 2.5 % to 97.5 % quantiles at the sizes where they were run. */
  random: {
    size: number;
    n: number;
    mean: number;
    low: number;
    high: number;
    p?: number;
  }[];
  n_pairs?: number;
  /** In words: which pairs it was evaluated on. */
  prompts?: string;
  conventions: Record<string, string>;
  python: string;
};

/** Two sets of scores: how many of the k strongest heads they share. */
export type Overlap = {
  /** Id of scores. */
  a: string;
  /** Id of scores. */
  b: string;
  k: number;
  shared: Node[];
  count: number;
  /** Shared by chance under the null. */
  expected: number;
  /** In words. */
  null: string;
  null_low?: number;
  null_high?: number;
  jaccard?: Interval;
  rank_correlation?: Interval;
  p: number;
  p_corrected: number;
  python: string;
};

export type Transfer = {
  model: string;
  method: string;
  /** Task whose circuit it is. */
  from: string;
  /** Task that it is run on. */
  to: string;
  size: number;
  faithfulness: Interval;
  p?: number;
  p_corrected?: number;
  random?: {
    mean: number;
    low: number;
    high: number;
  };
};

export type Dissociation = {
  model: string;
  a: string;
  b: string;
  sentence: string;
  measures: Record<string, number | string | boolean>;
};
