/** Names that the reader gives: to a node, and to a group of nodes. */
import { useEffect, useState } from "preact/hooks";
import type { Weighed } from "../data/circuits.ts";
import type { Box } from "../data/groups.ts";
import { boxName } from "../data/groups.ts";
import { baseOf } from "../data/nodes.ts";
import { useExplorer } from "../state/store.ts";
import { count, interval, signed } from "../ui/format.ts";

export function Groups({ chosen, clear }: { chosen: string[]; clear: () => void }) {
  const { state, set, colours } = useExplorer();
  const [name, setName] = useState("");
  const make = (event: Event): void => {
    event.preventDefault();
    const nodes = [...new Set(chosen.flatMap((node) => state.groups.find((_, i) => boxName(i) === node)?.nodes ?? [node]))];
    const taken = new Set(nodes);
    const others = state.groups
      .map((group) => ({ ...group, nodes: group.nodes.filter((node) => !taken.has(node)) }))
      .filter((group) => group.nodes.length > 0);
    set({ groups: [...others, { name: name.trim() || `group ${state.groups.length + 1}`, nodes }] });
    setName("");
    clear();
  };
  if (chosen.length === 0 && state.groups.length === 0) return null;
  return (
    <section class="clx-groups" aria-label="Groups">
      <h3>Groups</h3>
      {chosen.length > 0 && (
        <form class="clx-row clx-tight" onSubmit={make}>
          <input
            type="text"
            aria-label="Name of the group"
            placeholder={`Name for ${count(chosen.length, "node")}`}
            value={name}
            onInput={(event) => setName(event.currentTarget.value)}
          />
          <button type="submit" class="clx-button">
            Group
          </button>
          <button type="button" class="clx-button" onClick={clear}>
            Cancel
          </button>
        </form>
      )}
      <ul>
        {state.groups.map((group, i) => (
          <li key={i}>
            <span class="clx-port" style={{ background: colours.categories[i % colours.categories.length] }} aria-hidden="true" />
            <input
              type="text"
              class="clx-name"
              aria-label={`Name of group ${i + 1}`}
              value={group.name}
              onChange={(event) =>
                set({ groups: state.groups.map((one, j) => (j === i ? { ...one, name: event.currentTarget.value } : one)) })
              }
            />
            <span class="clx-small clx-soft" title={group.nodes.join(" ")}>
              {count(group.nodes.length, "node")}
            </span>
            <button
              type="button"
              class="clx-button"
              onClick={() =>
                set({
                  groups: state.groups.map((one, j) =>
                    j === i ? { name: one.name, nodes: one.nodes, ...(one.open ? {} : { open: true }) } : one,
                  ),
                })
              }
            >
              {group.open ? "One box" : "Show nodes"}
            </button>
            <button
              type="button"
              class="clx-button"
              aria-label={`Ungroup ${group.name}`}
              onClick={() => set({ groups: state.groups.filter((_, j) => j !== i) })}
            >
              Ungroup
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

interface NameProps {
  node: string;
  inside: boolean;
  rank: Weighed | null;
  chosen: boolean;
  choose: () => void;
}

export function NameNode({ node, inside, rank, chosen, choose }: NameProps) {
  const { state, set } = useExplorer();
  const [text, setText] = useState(state.labels[node] ?? "");
  useEffect(() => setText(state.labels[node] ?? ""), [node, state.labels]);
  if (!node) return null;
  const save = (): void => {
    const labels = { ...state.labels };
    if (text.trim()) labels[node] = text.trim();
    else delete labels[node];
    set({ labels });
  };
  return (
    <section class="clx-node-name" aria-label={`Node ${node}`}>
      <h3>
        <span class="clx-mono">{node}</span>{" "}
        {rank && (
          <span class="clx-soft clx-small clx-num">
            {signed(rank.weight)} {interval(rank.low, rank.high)}, rank {rank.rank}
          </span>
        )}
      </h3>
      {!inside && <p class="clx-note">{rank ? `Not kept at this size: it is number ${rank.rank}.` : "Not an element of this circuit."}</p>}
      <div class="clx-row clx-tight">
        <label class="clx-inline">
          <span class="clx-label">Label</span>
          <input
            type="text"
            value={text}
            placeholder="your name for it"
            onInput={(event) => setText(event.currentTarget.value)}
            onChange={save}
          />
        </label>
        <button type="button" class="clx-button" onClick={() => set({ view: "heads" })}>
          Open card
        </button>
        {inside && (
          <button type="button" class={`clx-button ${chosen ? "clx-on" : ""}`} aria-pressed={chosen} onClick={choose}>
            {chosen ? "Chosen for a group" : "Choose for a group"}
          </button>
        )}
      </div>
    </section>
  );
}

/** A chosen box: its nodes, to click through. */
export function BoxFacts({ box, choose }: { box: Box; choose: (node: string) => void }) {
  const { state } = useExplorer();
  return (
    <section class="clx-node-name" aria-label={`Group ${box.name}`}>
      <h3>
        {box.name} <span class="clx-soft clx-small">{count(box.named, "node")} as one box</span>
      </h3>
      <p class="clx-chips">
        {box.members.map((name) => (
          <button
            key={name}
            type="button"
            class={`clx-chip clx-mono ${baseOf(name) === state.node ? "clx-on" : ""}`}
            onClick={() => choose(baseOf(name))}
          >
            {name}
            {state.labels[name] ? ` ${state.labels[name]}` : ""}
          </button>
        ))}
      </p>
      <p class="clx-note">
        Edges in and out are sums over these nodes; edges between them are not drawn.
        {box.named < box.members.length && " Key/value heads that only they share are in the box."}
      </p>
    </section>
  );
}
