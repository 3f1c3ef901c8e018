/** Groups of a circuit's nodes as boxes: one node each, with the edges of its members merged. */
import type { Cut } from "./circuits.ts";
import { baseOf, kvOf, layerOf, readHead } from "./nodes.ts";
import type { Edge, Model } from "./schema.ts";
import type { NodeGroup } from "../state/state.ts";

/** A group that is drawn as one box. */
export interface Box {
  id: string;
  /** Its place in the list of groups. */
  index: number;
  name: string;
  members: string[];
  /** How many of its members the group names; the others are key/value heads that only they share. */
  named: number;
  /** First and last layer of its members. */
  layers: [number, number];
}

/** An edge as it is drawn; `of` counts the edges whose weights it sums, where it is a sum. */
export type Joined = Edge & { of?: number };

export interface Gathered {
  nodes: string[];
  edges: Joined[];
  boxes: Map<string, Box>;
  /** Box of every node that is not drawn itself. */
  home: Map<string, string>;
  /** Edges between members of one box, which are not drawn. */
  within: number;
}

export const boxName = (index: number): string => `group:${index}`;

/** Puts the members of closed groups into boxes, and with them key/value heads that no other drawn head shares. */
export function gathered(shown: Cut, groups: NodeGroup[], model: Model): Gathered {
  const home = homes(shown.nodes, groups, model);
  const boxes = new Map<string, Box>();
  groups.forEach((group, index) => {
    const id = boxName(index),
      members = shown.nodes.filter((name) => home.get(name) === id);
    const layers = members.map((name) => layerOf(name, model.n_layers));
    if (members.length)
      boxes.set(id, {
        id,
        index,
        name: group.name,
        members,
        named: members.filter((name) => group.nodes.includes(name)).length,
        layers: [Math.min(...layers), Math.max(...layers)],
      });
  });
  const placed = (name: string): string => home.get(name) ?? name;
  const merged = new Map<string, Joined>();
  let within = 0;
  for (const edge of shown.edges) {
    const from = placed(edge.from),
      to = placed(edge.to);
    if (from === to && boxes.has(from)) {
      within += 1;
      continue;
    }
    const key = `${from} ${to} ${edge.port}${boxes.has(from) || boxes.has(to) ? "" : ` ${edge.mark ?? ""}`}`;
    const known = merged.get(key);
    merged.set(key, known ? joined(known, edge) : { ...edge, from, to });
  }
  const nodes = [...new Set(shown.nodes.map(placed))];
  return { nodes, edges: [...merged.values()], boxes, home, within };
}

/** The sum of weights; an interval of the sum is not known, because all edges are of the same pairs. */
function joined(known: Joined, edge: Edge): Joined {
  return { from: known.from, to: known.to, port: known.port, weight: known.weight + edge.weight, of: (known.of ?? 1) + 1 };
}

function homes(nodes: string[], groups: NodeGroup[], model: Model): Map<string, string> {
  const home = new Map<string, string>();
  groups.forEach((group, index) => {
    if (!group.open) for (const name of group.nodes) if (nodes.includes(name)) home.set(name, boxName(index));
  });
  const sharing = new Map<string, Set<string | undefined>>();
  for (const name of nodes) {
    const head = readHead(baseOf(name));
    if (!head) continue;
    const kv = `a${head.layer}.kv${kvOf(model, head.head)}`;
    sharing.set(kv, (sharing.get(kv) ?? new Set()).add(home.get(name)));
  }
  for (const [kv, boxes] of sharing) {
    const [only] = boxes;
    if (boxes.size === 1 && only !== undefined && nodes.includes(kv) && !home.has(kv)) home.set(kv, only);
  }
  return home;
}
