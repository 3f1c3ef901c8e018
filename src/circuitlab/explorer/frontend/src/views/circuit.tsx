/** The circuit view: graph, slider with faithfulness, and the edges of the chosen node. */
import { useEffect, useMemo, useState } from "preact/hooks";
import { curveOf, cut as cutAt, listed, weighed, type Cut } from "../data/circuits.ts";
import { gathered, type Gathered, type Joined } from "../data/groups.ts";
import { methodTitle, modelTitle, taskTitle } from "../data/metrics.ts";
import { baseOf } from "../data/nodes.ts";
import { values } from "../data/packed.ts";
import type { Circuit, Edge, Payload } from "../data/schema.ts";
import { lines, stack } from "../scene/scene.ts";
import { useExplorer } from "../state/store.ts";
import { Absent, Segmented, Select } from "../ui/controls.tsx";
import { useWidth } from "../ui/figure.tsx";
import { count } from "../ui/format.ts";
import { Panel, type Rows } from "../ui/panel.tsx";
import { layoutOf } from "./circuit-layout.ts";
import { circuitScene, type NodeLook, portColour } from "./circuit-scene.ts";
import { curvePlot, curveScene } from "./curve.ts";
import { EdgeLists } from "./edge-lists.tsx";
import { Faithfulness } from "./faithfulness.tsx";
import { Graph } from "./graph.tsx";
import { BoxFacts, Groups, NameNode } from "./groups.tsx";

export function circuitLabel(payload: Payload, circuit: Circuit): string {
  const model = payload.models.length > 1 ? `${modelTitle(payload, circuit.model)}: ` : "";
  return `${model}${taskTitle(payload, circuit.task)}, ${methodTitle(payload, circuit.method)}, ${circuit.kind}${circuit.marks ? " at positions" : ""}`;
}

export function CircuitView() {
  const { payload, state, model, set, colours } = useExplorer();
  const [box, width] = useWidth<HTMLDivElement>(640);
  const [chosen, setChosen] = useState<string[]>([]);
  const own = payload.circuits.filter((one) => one.model === model.id);
  const circuit = own.find((one) => one.id === state.circuit) ?? own[0];
  const shown = useMemo(() => (circuit ? cutAt(circuit, state.size || circuit.size, model) : null), [circuit, state.size, model]);
  const weights = useMemo(() => weightsOf(circuit), [circuit]);
  const whole = useMemo(() => (shown ? gathered(shown, state.groups, model) : null), [shown, state.groups, model]);
  const edges = useMemo(() => drawn(whole, state.port, state.edges), [whole, state.port, state.edges]);
  const layout = useMemo(
    () => (whole ? layoutOf(whole, model, { width: Math.max(300, width), marks: circuit?.marks ?? [] }) : null),
    [whole, model, width, circuit],
  );
  const [focus, setFocus] = useState("");
  useEffect(() => {
    setFocus("");
    setChosen((names) => names.filter((name) => !name.startsWith("group:")));
  }, [state.groups.length, circuit?.id]);
  if (!circuit || !shown || !whole || !layout) {
    return (
      <Panel name="circuit" title="Circuit" scene={() => lines("Circuit", [], colours.ink)} rows={() => []} class="clx-wide">
        <Absent what="Circuit" reason={payload.absent.circuits ?? "There is no circuit of this model on this page."} />
      </Panel>
    );
  }
  const selected = selectedIn(whole, focus, state.node);
  const group = whole.boxes.get(selected);
  const look: NodeLook = {
    weights: weights.by,
    limit: weights.limit,
    labels: state.labels,
    groups: state.groups,
    boxes: whole.boxes,
    chosen,
    selected,
  };
  const title = circuitLabel(payload, circuit);
  const scene = () =>
    stack(title, [
      lines(title, [`${title}: ${count(shown.size, "element")}`], colours.ink, 14),
      circuitScene(layout, edges, look, colours, title),
      ...(curveOf(circuit) ? [curveScene(curvePlot(circuit, 420, 200), circuit, shown.size, colours)] : []),
    ]);
  const choose = (node: string, more: boolean): void => {
    if (more) setChosen(chosen.includes(node) ? chosen.filter((one) => one !== node) : [...chosen, node]);
    else {
      setFocus(node);
      if (!whole.boxes.has(node)) set({ node: baseOf(node) });
    }
  };
  const total = whole.edges.filter((edge) => !state.port || edge.port === state.port).length;
  return (
    <Panel
      name="circuit"
      title="Circuit"
      note={title}
      scene={scene}
      rows={() => circuitRows(circuit, shown, whole)}
      python={() => circuit.python}
      class="clx-wide"
    >
      <div class="clx-row clx-controls">
        <Select
          label="Circuit"
          value={circuit.id}
          options={own.map((one) => ({ value: one.id, label: circuitLabel(payload, one) }))}
          onChange={(id) => {
            const next = own.find((one) => one.id === id)!;
            set({
              circuit: id,
              size: Math.min(next.size, listed(next)),
              task: next.task,
              method: payload.scores.some((one) => one.method === next.method && one.task === next.task) ? next.method : state.method,
            });
          }}
        />
        <Segmented
          label="Edges into"
          value={state.port}
          onChange={(port) => set({ port })}
          options={[
            { value: "", label: "All" },
            { value: "q", label: "q" },
            { value: "k", label: "k" },
            { value: "v", label: "v" },
            { value: "in", label: "MLP, logits" },
          ]}
        />
        <Select
          label="Edges drawn"
          value={String(state.edges)}
          options={[20, 60, 150, 400, 5000].map((n) => ({ value: String(n), label: n === 5000 ? "all" : `strongest ${n}` }))}
          onChange={(value) => set({ edges: Number(value) })}
        />
      </div>
      <div class="clx-circuit">
        <div ref={box} class="clx-circuit-graph">
          <Graph layout={layout} edges={edges} look={look} title={title} onChoose={choose} />
          {(circuit.edges ?? []).length > 0 || circuit.kind === "edges" ? (
            <Legend />
          ) : (
            <Absent what="Edges" reason={payload.absent["circuits/edges"] ?? "There are no edges of this circuit on this page."} />
          )}
          <p class="clx-note">
            {total
              ? `${count(edges.length, "edge")} drawn, ${Math.max(0, total - edges.length).toLocaleString("en-GB")} weaker ones between these nodes not`
              : "No edges between these nodes"}
            {whole.within ? `; ${count(whole.within, "edge")} inside groups not` : ""}
            {shown.edgesTotal ? `; the model has ${shown.edgesTotal.toLocaleString("en-GB")}` : ""}
            {circuit.edges_method ? `, scored by ${methodTitle(payload, circuit.edges_method)}` : ""}. To group nodes, choose them with
            Ctrl-click, or with g on a focused node.
          </p>
        </div>
        <div class="clx-circuit-side">
          <Faithfulness circuit={circuit} cut={shown} />
          <Groups chosen={chosen} clear={() => setChosen([])} />
          {group ? (
            <BoxFacts box={group} choose={(node) => set({ node })} />
          ) : (
            <NameNode
              node={selected || state.node}
              inside={whole.nodes.includes(selected)}
              rank={weighed(circuit, selected || state.node)}
              chosen={chosen.includes(selected)}
              choose={() => choose(selected, true)}
            />
          )}
          <EdgeLists node={selected} edges={whole.edges} boxes={whole.boxes} choose={(node) => choose(node, false)} />
        </div>
      </div>
    </Panel>
  );
}

function Legend() {
  const { colours } = useExplorer();
  const ports: [Edge["port"], string][] = [
    ["q", "into queries"],
    ["k", "into keys"],
    ["v", "into values"],
    ["in", "into MLPs and logits"],
  ];
  return (
    <p class="clx-legend">
      {ports.map(([port, label]) => (
        <span key={port}>
          <svg width="22" height="8" aria-hidden="true">
            <line x1="0" x2="22" y1="4" y2="4" stroke={portColour(colours, port)} stroke-width="3" />
          </svg>{" "}
          {label}
        </span>
      ))}
      <span>
        <svg width="22" height="8" aria-hidden="true">
          <line x1="0" x2="22" y1="4" y2="4" stroke={colours.soft} stroke-width="2" stroke-dasharray="5 3.5" />
        </svg>{" "}
        negative
      </span>
      <span>width: magnitude; fill: the node's score</span>
    </p>
  );
}

/** What is lit in the graph: what was chosen there, or else the chosen head, or the box that holds it. */
function selectedIn(whole: Gathered, focus: string, node: string): string {
  if (whole.nodes.includes(focus) && (whole.boxes.has(focus) || baseOf(focus) === node)) return focus;
  if (whole.nodes.includes(node)) return node;
  const [, home] = [...whole.home].find(([name]) => baseOf(name) === node) ?? [];
  return home ?? whole.nodes.find((name) => baseOf(name) === node) ?? "";
}

function drawn(whole: Gathered | null, port: string, most: number): Joined[] {
  const all = (whole?.edges ?? []).filter((edge) => !port || edge.port === port);
  return [...all].sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, most);
}

function weightsOf(circuit: Circuit | undefined): { by: Map<string, number>; limit: number } {
  const by = new Map<string, number>();
  let limit = 0;
  if (circuit?.kind === "nodes") {
    const all = values(circuit.weights);
    circuit.elements.forEach((name, i) => {
      by.set(name, all[i]);
      if (!name.startsWith("m")) limit = Math.max(limit, Math.abs(all[i]));
    });
  }
  return { by, limit };
}

function circuitRows(circuit: Circuit, shown: Cut, whole: Gathered): Rows {
  const kept = new Set(circuit.elements.slice(0, shown.size));
  const rows: Rows = [["kind", "name", "rank", "weight", "low", "high", "kept", "from", "to", "port"]];
  circuit.elements.forEach((name) => {
    const one = weighed(circuit, name)!;
    rows.push(["element", name, one.rank, one.weight, one.low, one.high, kept.has(name)]);
  });
  for (const edge of circuit.kind === "nodes" ? shown.edges : [])
    rows.push([
      "edge",
      `${edge.from}->${edge.to}<${edge.port}>`,
      null,
      edge.weight,
      edge.low,
      edge.high,
      true,
      edge.from,
      edge.to,
      edge.port,
    ]);
  const named = (name: string): string => whole.boxes.get(name)?.name ?? name;
  for (const box of whole.boxes.values()) rows.push(["group", box.name, null, null, null, null, true, box.members.join(" ")]);
  for (const edge of whole.edges.filter((one) => one.of !== undefined))
    rows.push([`sum of ${edge.of} edges`, "", null, edge.weight, null, null, true, named(edge.from), named(edge.to), edge.port]);
  for (const curve of circuit.curves)
    for (const point of curve.points) rows.push([`faithfulness (${curve.ranking})`, "", point.size, point.mean, point.low, point.high]);
  for (const one of circuit.random) rows.push(["random circuits", "", one.size, one.mean, one.low, one.high]);
  return rows;
}
