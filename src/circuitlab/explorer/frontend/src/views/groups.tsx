/** Names that the reader gives: to a node, and to a group of nodes. */
import { useEffect, useState } from "preact/hooks";
import type { Weighed } from "../data/circuits.ts";
import { useExplorer } from "../state/store.ts";
import { Icon } from "../ui/controls.tsx";
import { count, interval, signed } from "../ui/format.ts";

export function Groups({ chosen, clear }: { chosen: string[]; clear: () => void }) {
  const { state, set, colours } = useExplorer();
  const [name, setName] = useState("");
  const make = (event: Event): void => {
    event.preventDefault();
    const taken = new Set(chosen);
    const others = state.groups
      .map((group) => ({ ...group, nodes: group.nodes.filter((node) => !taken.has(node)) }))
      .filter((group) => group.nodes.length > 0);
    set({ groups: [...others, { name: name.trim() || `group ${state.groups.length + 1}`, nodes: chosen }] });
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
            <span class="clx-small clx-mono clx-soft">{group.nodes.join(" ")}</span>
            <button
              type="button"
              class="clx-icon"
              aria-label={`Remove group ${group.name}`}
              onClick={() => set({ groups: state.groups.filter((_, j) => j !== i) })}
            >
              <Icon name="close" />
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}

export function NameNode({ node, inside, rank }: { node: string; inside: boolean; rank: Weighed | null }) {
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
      </div>
    </section>
  );
}
