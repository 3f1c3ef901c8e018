/** Edges in and out of one node, to click through. */
import { incoming, outgoing } from "../data/circuits.ts";
import type { Edge } from "../data/schema.ts";
import { useExplorer } from "../state/store.ts";
import { interval, signed } from "../ui/format.ts";
import { reachOf, Whisker } from "../ui/whisker.tsx";
import { portColour } from "./circuit-scene.ts";

export function EdgeLists({ node, edges }: { node: string; edges: Edge[] }) {
  if (!node) return <p class="clx-note">Choose a node to list its edges.</p>;
  return (
    <>
      <EdgeList title={`Into ${node}`} edges={incoming(edges, node)} end="from" />
      <EdgeList title={`Out of ${node}`} edges={outgoing(edges, node)} end="to" />
    </>
  );
}

const MOST = 12;

function EdgeList({ title, edges, end }: { title: string; edges: Edge[]; end: "from" | "to" }) {
  const { set, colours } = useExplorer();
  const shown = edges.slice(0, MOST),
    reach = reachOf(shown.map((edge) => ({ mean: edge.weight, low: edge.low, high: edge.high })));
  return (
    <section class="clx-edges" aria-label={title}>
      <h3>
        {title} <span class="clx-soft clx-small">{edges.length}</span>
      </h3>
      {edges.length === 0 && <p class="clx-note">None among the elements kept.</p>}
      <ul>
        {shown.map((edge) => (
          <li key={`${edge.from}${edge.to}${edge.port}${edge.mark ?? ""}`}>
            <span class="clx-port" style={{ background: portColour(colours, edge.port) }} title={`into ${edge.port}`} aria-hidden="true" />
            <span class="clx-mono clx-small clx-soft">{edge.port}</span>
            <button type="button" class="clx-link clx-mono" onClick={() => set({ node: edge[end] })}>
              {edge[end]}
            </button>
            {edge.mark && <span class="clx-soft clx-small">{edge.mark}</span>}
            <Whisker mean={edge.weight} low={edge.low} high={edge.high} reach={reach} width={90} />
            <span class="clx-num" title={interval(edge.low, edge.high)}>
              {signed(edge.weight)}
            </span>
          </li>
        ))}
      </ul>
      {edges.length > MOST && <p class="clx-note">and {edges.length - MOST} weaker ones; the CSV export holds all</p>}
    </section>
  );
}
