"""Figures of overlap, agreement and stability, as data."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import plotly.io
import pytest

from circuitlab import figures
from circuitlab.circuits import Circuit, TopK
from circuitlab.comparison import Sampling, StabilityCurve, compare_methods, compare_tasks, sample_size_curve
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Head, Universe
from circuitlab.figures.overlap import overlap_scale
from circuitlab.figures.upset import intersections
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.fakes import fake_scores

SHAPE = (6, 8)
BAD = "<script>alert(1)</script> & <b>x</b>"
replace = msgspec.structs.replace


def scores(seed: int, task: str = "a", *, method: str = "activation_patching", ready: bool = True, n: int = 16) -> HeadScores:
    rng = np.random.default_rng(seed)
    mean = np.random.default_rng(0).normal(size=SHAPE) ** 3 + 0.5 * rng.normal(size=SHAPE) ** 3
    found = fake_scores(mean + 0.3 * rng.normal(size=(n, *SHAPE)), task=task, ready=ready)
    return HeadScores(found.dataset, replace(found.provenance, method=method))


@pytest.fixture(scope="module")
def methods():
    names = ("activation_patching", "relp", "logit_attribution")
    return compare_methods({name: scores(i, method=name) for i, name in enumerate(names)}, TopK(8), Sampling(100, 100))


def data(figure) -> dict:
    return json.loads(plotly.io.to_json(figure, engine="json"))


def circuit(*heads: str, ready: bool = True) -> Circuit:
    nodes = frozenset(Head(*map(int, head.split("."))) for head in heads)
    return Circuit(nodes, Universe(3, 4, 4), ready=ready)


@pytest.fixture
def circuits():
    return {"ioi": circuit("0.1", "1.1", "1.2", "2.0"), "colors": circuit("1.1", "1.2", "2.3"), "years": circuit("1.1", ready=False)}


def test_overlap_cells_say_interval_and_chance() -> None:
    table = compare_tasks({name: scores(i, name) for i, name in enumerate("ab")}, TopK(8), Sampling(100, 100))
    (row,) = table.rows
    text = data(figures.overlap_matrix(table))["data"][0]["text"][1][0]
    assert f"{row.jaccard['mean']:.2f}" in text and f"chance {row.null_mean:.2f}" in text
    assert f"{row.jaccard['low']:.2f} to {row.jaccard['high']:.2f}" in text


def test_method_agreement_is_overlap_beside_chance_and_not_a_correlation_of_all_heads(methods) -> None:
    figure = figures.method_agreement(methods)
    lower, upper = data(figure)["data"]
    row = methods.row("activation_patching", "logit_attribution")
    assert lower["z"][2][0] == pytest.approx(row.jaccard["mean"], rel=1e-5)
    assert upper["z"][0][2] == pytest.approx(row.jaccard["mean"] - row.null_mean, rel=1e-4)
    assert "Spearman" not in plotly.io.to_json(figure, engine="json")
    assert f"chance {row.null_mean:.2f}" in lower["text"][2][0]
    assert figure.layout.xaxis.title.text == "method"
    assert [label.replace("<br>", " ") for label in figure.layout.yaxis.ticktext] == ["activation patching", "relp", "logit attribution"]


def test_matrices_read_side_by_side_share_their_scales(methods) -> None:
    few = compare_methods({name: scores(i + 7, method=name) for i, name in enumerate("ab")}, TopK(8), Sampling(100, 100))
    scale = overlap_scale([methods, few])
    axes = [figures.method_agreement(table, scale=scale).layout for table in (methods, few)]
    assert {(one.coloraxis.cmax, one.coloraxis2.cmax) for one in axes} == {scale}
    alone = [overlap_scale([table]) for table in (methods, few)]
    assert scale == tuple(map(max, zip(*alone, strict=True))) and alone[0] != alone[1]


def test_a_matrix_of_two_leaves_room_for_both_colour_bars() -> None:
    table = compare_tasks({name: scores(i, name) for i, name in enumerate("ab")}, TopK(8), Sampling(100, 100))
    layout = figures.overlap_matrix(table).layout
    area = layout.height - layout.margin.t - layout.margin.b
    lengths = [axis.colorbar.len * area for axis in (layout.coloraxis, layout.coloraxis2)]
    assert min(lengths) >= 130, "a title of four lines and a scale below it"


def test_intersections_are_exclusive(circuits) -> None:
    found = {one.members: [str(head) for head in one.heads] for one in intersections(circuits)}
    assert found == {
        ("ioi",): ["a0.h1", "a2.h0"],
        ("colors",): ["a2.h3"],
        ("ioi", "colors"): ["a1.h2"],
        ("ioi", "colors", "years"): ["a1.h1"],
    }


def test_chance_of_an_intersection_is_what_random_circuits_give(circuits) -> None:
    rng = np.random.default_rng(0)
    counts = {one.members: 0.0 for one in intersections(circuits)}
    masks = np.zeros((3, 3, 4), dtype=bool)
    for mask, one in zip(masks, circuits.values(), strict=True):
        for node in one:
            mask[node.layer, node.head] = True
    for _ in range(4000):
        drawn = rng.permuted(masks, axis=-1)
        for members in counts:
            inside = [name in members for name in circuits]
            counts[members] += np.all(drawn == np.array(inside)[:, None, None], axis=0).sum() / 4000
    for one in intersections(circuits):
        assert one.chance == pytest.approx(counts[one.members], abs=0.05)


def test_upset_draws_sizes_members_and_chance(circuits) -> None:
    figure = figures.upset(circuits)
    bars, ticks, faint, lines, members = figure.data
    assert list(bars.y) == [2, 1, 1, 1] and sum(bars.y) == len(set().union(*(c.nodes for c in circuits.values())))
    assert list(ticks.y) == pytest.approx([one.chance for one in intersections(circuits)], rel=1e-5)
    assert set(zip(members.x, members.y, strict=True)) == {(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 1)}
    axis = figure.layout.xaxis
    assert list(axis.ticktext) == [f"<b>{n}</b>" for n in (2, 1, 1, 1)] and axis.showticklabels, "below the bars, away from the ticks"
    assert not [trace for trace in figure.data if trace.text is not None]
    assert len(faint.x) == 12 and lines.x.count(None) == 4
    labels = list(figure.layout.yaxis2.ticktext)
    assert labels[0] == "ioi (4)" and labels[2] == "years † (1)"
    assert "a1.h1" in bars.hovertext[1]
    assert figure.layout.yaxis.title.text == "heads"
    short = figures.upset(circuits, most=2)
    assert len(short.data[0].y) == 2 and "2 smaller intersections left out" in short.layout.meta["subtitle"]


def test_upset_needs_circuits_of_one_shape(circuits) -> None:
    with pytest.raises(BadParameterError, match="no intersections"):
        figures.upset({"ioi": circuits["ioi"]})
    with pytest.raises(IncompatibleError):
        figures.upset({"a": circuits["ioi"], "b": Circuit(frozenset(), Universe(2, 2, 2))})
    with pytest.raises(BadParameterError, match="no head"):
        figures.upset({"a": circuit(), "b": circuit()})


def test_stability_curves_draw_band_line_and_chance() -> None:
    curves = {"ioi": sample_size_curve(scores(0, n=64), 8), "docstring": StabilityCurve(np.array([1]), *np.ones((3, 1)), 0.1, 8)}
    figure = figures.stability_curves(curves)
    traces = {(trace.meta, trace.name): trace for trace in figure.data}
    line, chance, band = (traces[kind, "ioi"] for kind in ("line", "chance", "band"))
    assert list(line.x) == [2, 4, 8, 12, 16, 24, 32]
    assert list(line.y) == pytest.approx(list(curves["ioi"].mean), rel=1e-5)
    assert list(chance.y) == pytest.approx([curves["ioi"].chance] * 2, rel=1e-5)
    assert max(band.y) == pytest.approx(curves["ioi"].high.max(), rel=1e-5)
    assert line.line.color == chance.line.color != traces["line", "docstring"].line.color
    assert figure.layout.xaxis.type == "log" and figure.layout.xaxis.ticktext[0] == "1"
    assert "pairs" in figure.layout.xaxis.title.text and "Jaccard" in figure.layout.yaxis.title.text
    with pytest.raises(BadParameterError, match="no curve"):
        figures.stability_curves({})


def test_many_stability_curves_get_a_panel_each() -> None:
    curves = {f"task {i}": sample_size_curve(scores(i, n=16), 8) for i in range(5)}
    figure = figures.stability_curves(curves)
    lines = {trace.name: trace for trace in figure.data if trace.meta == "line"}
    assert len({(trace.xaxis, trace.yaxis) for trace in lines.values()}) == len(curves)
    assert {"task 0", "task 4"} <= {note.text for note in figure.layout.annotations}
    assert lines["task 4"].xaxis == "x5" and list(lines["task 4"].y) == pytest.approx(list(curves["task 4"].mean), rel=1e-5)
    assert [figure.layout[f"xaxis{i}"].showticklabels for i in (2, 3, 4)] == [True, True, True]
    assert figure.layout.xaxis.showticklabels is False
    assert figure.layout.showlegend is False


def test_text_never_becomes_markup(circuits, methods) -> None:
    curve = StabilityCurve(np.array([1]), *np.ones((3, 1)), 0.1, 8)
    drawn = [
        figures.upset(circuits, titles={"ioi": BAD}, title=BAD),
        figures.method_agreement(methods, titles={"relp": BAD}, title=BAD),
        figures.stability_curves({BAD: curve}, title=BAD),
    ]
    for figure in drawn:
        shown = plotly.io.to_json(figure.update_layout(meta=None), engine="json").replace("\\u003c", "<").replace("\\u003e", ">")
        assert "<script>" not in shown and "&lt;script&gt;" in shown
