"""Pictures of circuits as data: curves, completeness, the scoreboard, and diagrams that stay legible."""

from __future__ import annotations

import json

import numpy as np
import plotly.io
import pytest

from circuitlab import figures
from circuitlab.circuits import Circuit, published_circuit
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Embed, Head, KVHead, Logits, Mlp, Universe, parse_edge
from circuitlab.figures.placement import curve_of, place_circuit
from circuitlab.scores.edge_layout import EdgeLayout

EVIL = "<script>alert(1)</script> & <b>x</b>"


def data(figure) -> dict:
    return json.loads(plotly.io.to_json(figure, engine="json"))


def note(figure, name: str) -> str | None:
    return next((entry.text for entry in figure.layout.annotations if entry.name == name), None)


def parts(figure, meta: str) -> list:
    return [trace for trace in figure.data if trace.meta == meta]


# Curves


def curve(sizes=(0, 5, 20, 100), top: float = 1.2, spread: float = 0.1) -> figures.SizeCurve:
    mean = np.linspace(0, top, len(sizes))
    return figures.SizeCurve(np.array(sizes), mean, mean - spread, mean + spread)


def test_curve_draws_line_and_band_of_every_method_and_of_chance() -> None:
    found, chance = curve((0, 5, 20, 100)), curve((0, 5, 20, 100), top=0.3)
    figure = figures.faithfulness_curve({"path patching": found, "eap": curve(top=0.8)}, chance, unit="edges")
    lines = parts(figure, "line")
    assert [trace.name for trace in lines] == ["random circuits of the same size", "path patching", "eap"]
    assert len({trace.line.color for trace in lines}) == 3 and lines[0].line.dash == "dot"
    assert np.allclose(lines[1].y, found.mean) and list(lines[1].x) == [0, 5, 20, 100]
    bands = parts(figure, "band")
    assert list(bands[1].y) == pytest.approx([*found.high, *found.low[::-1]]) and list(bands[1].x) == [0, 5, 20, 100, 100, 20, 5, 0]
    assert all(band.fill == "toself" and band.fillcolor.startswith("rgba(") and not band.showlegend for band in bands)
    assert [band.legendgroup for band in bands] == [line.legendgroup for line in lines]
    assert "20 edges" in lines[1].hovertext[2] and "0.800" in lines[1].hovertext[2] and "0.700 to 0.900" in lines[1].hovertext[2]


def test_curve_axes_say_units_and_nothing_is_clamped() -> None:
    figure = figures.faithfulness_curve({"a": curve(top=1.5)}, curve(top=-0.4))
    assert figure.layout.xaxis.title.text == "size of the circuit (nodes)"
    assert "share of the full model's effect" in figure.layout.yaxis.title.text
    low, high = figure.layout.yaxis.range
    assert low < -0.5 and high > 1.6
    assert [(shape.y0, shape.y1) for shape in figure.layout.shapes] == [(1, 1), (0, 0)]
    assert [entry.text for entry in figure.layout.annotations if entry.name == "reference"] == ["full model", "empty circuit"]


def test_curve_takes_a_logarithmic_axis_for_wide_sizes_and_leaves_the_empty_circuit_out() -> None:
    assert figures.faithfulness_curve({"a": curve((0, 5, 20, 100))}).layout.xaxis.type == "linear"
    figure = figures.faithfulness_curve({"a": curve((0, 5, 20, 1000))}, curve((0, 5, 20, 1000)))
    assert figure.layout.xaxis.type == "log"
    assert all(min(trace.x) == 5 for trace in figure.data)


def test_curve_without_intervals_has_no_band() -> None:
    bare = figures.SizeCurve(np.array([1, 2]), np.array([0.2, 0.9]), np.full(2, np.nan), np.full(2, np.nan))
    figure = figures.faithfulness_curve({"a": bare})
    assert not parts(figure, "band")[0].x and "to" not in parts(figure, "line")[0].hovertext[0]


def test_curves_that_are_none_are_refused() -> None:
    with pytest.raises(BadParameterError, match="no curve"):
        figures.faithfulness_curve({})
    with pytest.raises(UnknownNameError, match="Did you mean 'nodes'"):
        figures.faithfulness_curve({"a": curve()}, unit="node")  # type: ignore[arg-type]
    with pytest.raises(BadParameterError, match="of one length"):
        figures.SizeCurve(np.arange(3), np.zeros(3), np.zeros(2), np.zeros(3))
    with pytest.raises(BadParameterError, match="do not increase"):
        figures.SizeCurve(np.array([1, 1]), np.zeros(2), np.zeros(2), np.zeros(2))


# Completeness


def removals() -> list[figures.Removal]:
    rng = np.random.default_rng(0)
    found = [figures.Removal(f"random {i}", "random", float(y), float(y + e)) for i, (y, e) in enumerate(rng.normal(1, 0.3, (20, 2)))]
    return [*found, figures.Removal("name movers", "class", 0.2, 3.1), figures.Removal("greedy", "greedy", 2.5, 1.0)]


def test_completeness_draws_points_against_the_diagonal() -> None:
    figure = figures.completeness_scatter(removals())
    diagonal, random, classes, greedy = figure.data
    assert list(diagonal.x) == list(diagonal.y) and diagonal.mode == "lines"
    assert list(figure.layout.xaxis.range) == list(figure.layout.yaxis.range) == pytest.approx(list(diagonal.x), rel=1e-4)
    assert (len(random.x), len(classes.x), len(greedy.x)) == (20, 1, 1)
    assert (classes.x[0], classes.y[0]) == (3.1, 0.2), "model across, circuit up"
    named = {note.text: (note.x, note.y) for note in figure.layout.annotations if note.name == "label"}
    assert named == {"name movers": (3.1, 0.2), "greedy": (greedy.x[0], greedy.y[0])}
    assert len({trace.marker.color for trace in (random, classes, greedy)}) == 3
    assert "difference -2.9" in classes.hovertext[0]


def test_completeness_axes_and_subtitle() -> None:
    figure = figures.completeness_scatter(removals(), units="nats")
    assert figure.layout.xaxis.title.text == "model without K (nats)" and figure.layout.yaxis.title.text == "circuit without K (nats)"
    assert figure.layout.meta["subtitle"] == "22 sets K removed · farthest from the diagonal: name movers (-2.90 nats)"
    one = figures.completeness_scatter([figures.Removal("x", "class", 1.0, 1.0)])
    assert one.layout.xaxis.range[0] < 1 < one.layout.xaxis.range[1]
    with pytest.raises(BadParameterError, match="No nodes were removed"):
        figures.completeness_scatter([])
    with pytest.raises(UnknownNameError, match="Did you mean 'greedy'"):
        figures.Removal("x", "gredy", 0, 0)


# Scoreboard


def row(model: str, method: str, mean: float, reason: str = "") -> dict:
    auroc = {"mean": mean, "low": mean - 0.02, "high": min(1.0, mean + 0.02)}
    return {"model": model, "method": method, "auroc": auroc, "visible": not reason, "reason": reason, "average_precision": 1.0}


ROWS = [
    row("copy", "activation_patching", 1.0),
    row("or_pair", "activation_patching", 0.52, "one head is enough"),
    row("copy", "random", 0.49),
    row("or_pair", "random", 0.51),
    row("or_pair", "eap", 0.55, "one head is enough"),
    row("copy", "eap", 0.6, "no gradient at the clean run"),
]


def test_scoreboard_puts_methods_down_and_models_across() -> None:
    figure = figures.scoreboard_table(ROWS)
    seen, unseen = data(figure)["data"]
    assert list(figure.layout.yaxis.ticktext) == ["activation patching", "random", "eap"]
    assert list(figure.layout.xaxis.ticktext) == ["copy", "or pair"] and figure.layout.xaxis.side == "top"
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1], "first method on top"
    assert seen["z"] == [[1.0, None], [0.49, 0.51], [None, None]]
    assert "1.00" in seen["text"][0][0] and "0.98 to 1.00" in seen["text"][0][0]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0.5, 1.0)
    assert sorted(zip(unseen["y"], unseen["x"], strict=True)) == [(0, 1), (2, 0), (2, 1)]


def test_scoreboard_names_every_reason_once_and_points_at_it() -> None:
    figure = figures.scoreboard_table(ROWS)
    assert note(figure, "reasons") == "(1) one head is enough<br>(2) no gradient at the clean run"
    unseen = figure.data[1]
    by_place = dict(zip(zip(unseen.y, unseen.x, strict=True), unseen.text, strict=True))
    assert "0.52 (1)" in by_place[0, 1] and "0.55 (1)" in by_place[2, 1] and "0.60 (2)" in by_place[2, 0]
    assert all("cannot be seen" in text for text in unseen.hovertext)
    plain = figures.scoreboard_table([row for row in ROWS if row["visible"]])
    assert note(plain, "reasons") is None
    assert figure.layout.margin.b > plain.layout.margin.b, "there is room for the reasons"


def test_scoreboard_grows_with_its_rows_and_leaves_gaps_empty() -> None:
    small = figures.scoreboard_table(ROWS)
    large = figures.scoreboard_table([row(f"m{i}", f"method {j}", 0.9) for i in range(9) for j in range(12)])
    assert large.layout.width > small.layout.width and large.layout.height > small.layout.height
    gap = data(figures.scoreboard_table(ROWS[:3]))["data"][0]
    assert gap["z"] == [[1.0, None], [0.49, None]] and gap["text"][1][1] == ""
    with pytest.raises(BadParameterError, match="no result"):
        figures.scoreboard_table([])
    with pytest.raises(BadParameterError, match="2 rows hold 1 combinations"):
        figures.scoreboard_table([ROWS[0], ROWS[0]])


# Diagrams

GROUPED = Circuit(
    frozenset({Embed(), Head(0, 1), Mlp(0), Head(2, 3), Logits()}),
    Universe(4, 4, 2),
    frozenset(map(parse_edge, ["embed->a0.h1<q>", "a0.h1->a2.kv1<k>", "m0->a2.kv1<v>", "a0.h1->m0", "a0.h1->a2.h3<q>", "a2.h3->logits"])),
)


def large_circuit(n_nodes: int = 60, seed: int = 0, kv: int = 12) -> Circuit:
    """A random circuit of so many nodes in a model of 12 layers and 12 heads, with about three edges a node."""
    layout = EdgeLayout(12, 12, kv)
    rng = np.random.default_rng(seed)
    nodes = {layout.senders[i] for i in rng.choice(np.arange(1, len(layout.senders)), n_nodes - 2, replace=False)} | {Embed(), Logits()}
    space = Universe(12, 12, kv)
    inside = [edge for edge in layout.edges() if edge.sender in nodes and not nodes.isdisjoint(_readers(edge.receiver, 12 // kv))]
    chosen = rng.choice(len(inside), min(3 * n_nodes, len(inside)), replace=False)
    return Circuit(frozenset(nodes), space, frozenset(inside[i] for i in chosen), "made up")


def _readers(receiver, size: int) -> list:
    """The query heads of a key/value head, otherwise the node itself."""
    return [Head(receiver.layer, receiver.head * size + i) for i in range(size)] if isinstance(receiver, KVHead) else [receiver]


def places(figure) -> dict[str, tuple[float, float]]:
    found = {}
    for trace in parts(figure, "nodes"):
        found |= {text.split("</b>")[0][3:]: (x, y) for text, x, y in zip(trace.hovertext, trace.x, trace.y, strict=True)}
    return found


def test_diagram_runs_upward_from_embed_to_logits() -> None:
    at = places(figures.circuit_diagram(GROUPED))
    assert set(at) == {"embed", "a0.h1", "m0", "a2.kv1", "a2.h3", "logits"}
    heights = [at[name][1] for name in ("embed", "a0.h1", "m0", "a2.kv1", "a2.h3", "logits")]
    assert heights == sorted(heights) and len(set(heights)) == 6


@pytest.mark.parametrize("kv", [12, 4])
def test_every_edge_of_a_large_diagram_runs_upward(kv) -> None:
    figure = figures.circuit_diagram(large_circuit(kv=kv))
    for trace in parts(figure, "edges"):
        steps = [b - a for a, b in zip(trace.y, trace.y[1:], strict=False) if a is not None and b is not None]
        assert min(steps) > 0


@pytest.mark.parametrize("seed", range(4))
def test_sixty_nodes_stay_legible(seed) -> None:
    circuit = large_circuit(60, seed)
    figure = figures.circuit_diagram(circuit)
    at = places(figure)
    assert len(at) == 60
    layout = figure.layout
    across = (layout.width - layout.margin.l - layout.margin.r) / (layout.xaxis.range[1] - layout.xaxis.range[0])
    up = (layout.height - layout.margin.t - layout.margin.b) / (layout.yaxis.range[1] - layout.yaxis.range[0])
    points = np.array(list(at.values())) * [across, up]
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(60)
    largest = max(trace.marker.size for trace in parts(figure, "nodes"))
    assert apart.min() >= largest, "no two nodes overlap"
    assert layout.width <= 1100 and layout.height <= 2200, "it fits a page"
    assert all(trace.textfont.size >= 10 for trace in parts(figure, "nodes"))


@pytest.mark.parametrize("kv", [12, 4])
@pytest.mark.parametrize("lane", [0.0, 0.5, 1.0])
def test_lines_pass_no_node_on_their_way_and_stay_near_straight(kv, lane) -> None:
    placed = place_circuit(large_circuit(60, kv=kv))
    straight_near = 0
    for edge, sender, receiver in placed.edges:
        x, y = curve_of((sender, receiver, edge.port), placed, lane)
        (x0, y0), (x1, y1) = placed.at[sender], placed.at[receiver]
        assert (x[0], y[0], y[-1]) == (x0, y0, y1) and abs(x[-1] - x1) < 0.21
        assert np.abs(x - np.interp(y, [y0, y1], [x0, x1])).max() < 4
        for node, (column, height) in placed.at.items():
            if node not in {sender, receiver} and y0 < height < y1:
                assert abs(np.interp(height, y, x) - column) > 0.35
                straight_near += abs(np.interp(height, [y0, y1], [x0, x1]) - column) < 0.35
    assert straight_near > len(placed.edges) / 2, "straight lines would run through nodes"


def test_a_free_way_is_straight() -> None:
    placed = place_circuit(Circuit(frozenset(), Universe(3, 4, 4), frozenset({parse_edge("a0.h0->a2.h1<k>")})))
    x, y = curve_of((Head(0, 0), Head(2, 1), "k"), placed)
    (x0, y0), (x1, y1) = placed.at[Head(0, 0)], placed.at[Head(2, 1)]
    np.testing.assert_allclose(x, np.interp(y, [y0, y1], [x0, x1]), atol=1e-9)


def test_lines_round_one_node_do_not_lie_on_each_other() -> None:
    names = ["a0.h0->a2.h0<q>", "a0.h0->a2.h0<k>", "a0.h0->a2.h0<v>", "a0.h0->a1.h1<q>", "a1.h1->a2.h0<q>"]
    names = [name.replace("a2.h0<k>", "a2.kv0<k>").replace("a2.h0<v>", "a2.kv0<v>") for name in names]
    figure = figures.circuit_diagram(Circuit(frozenset(), Universe(3, 4, 4), frozenset(map(parse_edge, names))))
    middle = [x for trace in parts(figure, "edges") for x, y in zip(trace.x, trace.y, strict=True) if y == 1.25]
    assert len(middle) == 5
    apart = np.abs(np.subtract.outer(middle, middle))[np.triu_indices(5, 1)]
    assert apart.min() > 0.05


def test_small_diagrams_have_columns_of_the_same_width() -> None:
    for circuit in (GROUPED, large_circuit()):
        layout = figures.circuit_diagram(circuit).layout
        across = (layout.width - layout.margin.l - layout.margin.r) / (layout.xaxis.range[1] - layout.xaxis.range[0])
        assert across == pytest.approx(56, abs=0.2)
        assert layout.width - layout.margin.l - layout.margin.r >= 420


def test_columns_follow_neighbours() -> None:
    """Two strands that do not touch stand beside each other, and neither crosses the other."""
    names = ["a0.h0->a1.h3<q>", "a1.h3->a2.h0<q>", "a0.h3->a1.h0<q>", "a1.h0->a2.h3<q>"]
    placed = place_circuit(Circuit(frozenset(), Universe(3, 4, 4), frozenset(map(parse_edge, names))))
    left = [placed.at[node][0] for node in (Head(0, 0), Head(1, 3), Head(2, 0))]
    right = [placed.at[node][0] for node in (Head(0, 3), Head(1, 0), Head(2, 3))]
    assert np.ptp(left) < 1e-6 and np.ptp(right) < 1e-6 and abs(left[0] - right[0]) >= 1


def test_edges_are_coloured_by_port_and_as_wide_as_their_score() -> None:
    scores = dict.fromkeys(GROUPED.edges, 0.1) | {parse_edge("a2.h3->logits"): -1.0, parse_edge("a0.h1->a2.h3<q>"): 0.5}
    figure = figures.circuit_diagram(GROUPED, scores)
    looks = {(trace.line.color, trace.line.width, trace.line.dash) for trace in parts(figure, "edges")}
    widths = {width for _, width, _ in looks}
    assert len({colour for colour, _, _ in looks}) == 4 and len(widths) == 3
    assert [width for _, width, dash in looks if dash == "dot"] == [max(widths)], "the strongest hinders"
    assert [trace.name for trace in parts(figure, "legend")] == ["into query", "into key", "into value", "into MLP or logits", "hinders"]
    told = parts(figure, "hover")[0].hovertext
    assert len(told) == len(GROUPED.edges) and any("a2.h3-&gt;logits" in text and "-1" in text for text in told)
    plain = figures.circuit_diagram(GROUPED)
    assert len({trace.line.width for trace in parts(plain, "edges")}) == 1 and "hinders" not in [trace.name for trace in plain.data]


def test_shared_heads_are_tied_to_their_readers_and_plain_ones_are_one_node() -> None:
    figure = figures.circuit_diagram(GROUPED)
    at = places(figure)
    (tie,) = parts(figure, "readers")
    assert list(zip(tie.x[:2], tie.y[:2], strict=True)) == [at["a2.kv1"], at["a2.h3"]]
    plain = Circuit(frozenset({Head(1, 0)}), Universe(2, 4, 4), frozenset({parse_edge("embed->a1.kv0<k>")}))
    figure = figures.circuit_diagram(plain)
    assert set(places(figure)) == {"embed", "a1.h0"} and not parts(figure, "readers")


def test_nodes_say_what_they_are() -> None:
    figure = figures.circuit_diagram(GROUPED, {Head(0, 1): -0.5, Mlp(0): 0.25})
    heads = next(trace for trace in parts(figure, "nodes") if trace.name == "head")
    assert heads.text == ("0.1", "2.3") and heads.marker.color[0] != heads.marker.color[1]
    assert "score -0.5" in heads.hovertext[0]
    assert {trace.marker.symbol for trace in parts(figure, "nodes")} == {"circle", "diamond", "square"}
    only_end = figures.circuit_diagram(Circuit(frozenset({Head(0, 1)}), GROUPED.universe, GROUPED.edges))
    heads = next(trace for trace in parts(only_end, "nodes") if trace.name == "head")
    assert heads.marker.opacity[0] == 1 and heads.marker.opacity[1] < 1


def test_published_circuits_without_edges_are_drawn_by_layer() -> None:
    found = published_circuit("ioi_gpt2_small")
    figure = figures.circuit_diagram(found.circuit, title=found.title)
    assert len(places(figure)) == 26 and not parts(figure, "edges")
    layers = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals, strict=True))
    assert list(layers) == ["0", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"]
    assert figure.layout.yaxis.title.text == "layer" and layers["10"] == places(figure)["a10.h7"][1]
    assert figure.layout.meta["subtitle"] == "published: ioi_gpt2_small"


def test_diagram_of_a_task_the_model_cannot_do_says_so() -> None:
    assert note(figures.circuit_diagram(GROUPED), "near-chance") is None
    doubtful = Circuit(GROUPED.nodes, GROUPED.universe, GROUPED.edges, ready=False)
    assert "not shown to do this task" in note(figures.circuit_diagram(doubtful), "near-chance")


def test_diagrams_of_nothing_or_of_too_much_are_refused() -> None:
    with pytest.raises(BadParameterError, match="empty"):
        figures.circuit_diagram(Circuit(frozenset(), Universe(2, 2, 2)))
    layout = EdgeLayout(12, 12, 12)
    with pytest.raises(BadParameterError, match=f"{layout.n_edges} edges cannot be read"):
        figures.circuit_diagram(Circuit(frozenset(), Universe(12, 12, 12), frozenset(layout.edges())))


def test_same_circuit_same_picture() -> None:
    assert data(figures.circuit_diagram(large_circuit())) == data(figures.circuit_diagram(large_circuit()))


# All of them


def every_figure(text: str, theme: str = "light") -> list:
    return [
        figures.faithfulness_curve({text: curve()}, curve(), title=text, theme=theme),
        figures.completeness_scatter([*removals(), figures.Removal(text, "class", 1, 2)], units=text, title=text, theme=theme),
        figures.scoreboard_table([*ROWS, row(text, text, 0.5, text)], title=text, theme=theme),
        figures.circuit_diagram(GROUPED, title=text, subtitle=text, theme=theme),
    ]


def test_text_never_becomes_markup() -> None:
    for figure in every_figure(EVIL):
        shown = plotly.io.to_json(figure.update_layout(meta=None), engine="json").replace("\\u003c", "<").replace("\\u003e", ">")
        assert "<script>" not in shown and "&lt;script&gt;" in shown


def test_figures_are_the_same_in_both_themes_but_for_the_template() -> None:
    for light, dark in zip(every_figure("t"), every_figure("t", "dark"), strict=True):
        assert data(figures.themed(light, "dark")) == data(dark)
        assert light.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"
