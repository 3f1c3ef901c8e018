/** Edges in and out of one node, to click through. */
import { incoming, outgoing } from "../data/circuits.ts";
import type { Box, Joined } from "../data/groups.ts";
import { useExplorer } from "../state/store.ts";
import { interval, signed } from "../ui/format.ts";
import { reachOf, Whisker } from "../ui/whisker.tsx";
import { portColour } from "./circuit-scene.ts";

interface Props {
  node: string;
  edges: Joined[];
  boxes: Map<string, Box>;
  choose: (node: string) => void;
}

export function EdgeLists({ node, edges, boxes, choose }: Props) {
  if (!node) return <p class="clx-note">Choose a node to list its edges.</p>;
  const named = (name: string): string => boxes.get(name)?.name ?? name;
  return (
    <>
      <EdgeList title={`Into ${named(node)}`} edges={incoming(edges, node)} end="from" named={named} choose={choose} />
      <EdgeList title={`Out of ${named(node)}`} edges={outgoing(edges, node)} end="to" named={named} choose={choose} />
    </>
  );
}

const MOST = 12;

interface ListProps {
  title: string;
  edges: Joined[];
  end: "from" | "to";
  named: (name: string) => string;
  choose: (node: string) => void;
}

function EdgeList({ title, edges, end, named, choose }: ListProps) {
  const { colours } = useExplorer();
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
            <button type="button" class="clx-link clx-mono" onClick={() => choose(edge[end])}>
              {named(edge[end])}
            </button>
            {edge.of !== undefined && <span class="clx-soft clx-small clx-sum">sum of {edge.of}</span>}
            {edge.mark && <span class="clx-soft clx-small">{edge.mark}</span>}
            <Whisker mean={edge.weight} low={edge.low} high={edge.high} reach={reach} width={90} />
            <span class="clx-num" title={edge.of === undefined ? interval(edge.low, edge.high) : "a sum has no interval of its own"}>
              {signed(edge.weight)}
            </span>
          </li>
        ))}
      </ul>
      {edges.length > MOST && <p class="clx-note">and {edges.length - MOST} weaker ones; the CSV export holds all</p>}
    </section>
  );
}
