"""Pictures of transfer, dissociation and ablation sensitivity as data."""

from __future__ import annotations

import json

import numpy as np
import plotly.io
import pytest

from circuitlab.circuits import Circuit
from circuitlab.comparison.dissociation import dissociation_table
from circuitlab.comparison.sensitivity import sensitivity_card
from circuitlab.comparison.transfer import transfer_table
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, Universe
from circuitlab.figures.dissociation import dissociation_bars
from circuitlab.figures.sensitivity import sensitivity_dots
from circuitlab.figures.transfer import transfer_matrix

SHAPE = Universe(4, 5, 1)
EVIL = "<script>alert(1)</script>"


class Additive:
    """A metric that is the sum of what heads add, with noise per pair."""

    def __init__(self, places, seed: int = 0, pairs: int = 12) -> None:
        self.weights = np.isin(np.arange(20), places)[:, None] + np.random.default_rng(seed).normal(0, 0.05, (20, pairs))

    def metric_of(self, masks):
        return masks @ self.weights - 1.0


@pytest.fixture(scope="module")
def given():
    circuits = {"a": (0, 1, 2), "b": (2, 3, 4), "c": (7, 8)}
    made = {name: Circuit(frozenset(Head(*divmod(i, 5)) for i in places), SHAPE) for name, places in circuits.items()}
    return {name: Additive(places, seed) for seed, (name, places) in enumerate(circuits.items())}, made


def test_transfer_matrix_is_centred_on_chance_and_shows_own_random_and_shared(given) -> None:
    table = transfer_table(*given, n_random=30, conventions={"ablated_value": "made up"})
    figure = transfer_matrix(table, titles={"a": EVIL})
    circuits, below = figure.data
    cell = table.cell("b", "a")
    assert circuits.z[1][0] == pytest.approx(cell.faithfulness["mean"] - cell.random["mean"], rel=1e-4)
    assert (
        circuits.text[1][0].startswith(f"{cell.faithfulness['mean']:.2f}") and f"{cell.faithfulness['low']:.2f} to" in circuits.text[1][0]
    )
    assert list(below.z[0]) == [0.0, 0.0, 0.0], "random circuits are the neutral colour"
    assert below.text[0][2].startswith(f"{table.cell('c', 'c').random['mean']:.2f}")
    assert below.text[1][0].startswith(f"{float(table.shared['a'].mean):.2f}")
    assert figure.layout.yaxis.ticktext[-1] == "shared by all<br>(0 heads)"
    assert figure.layout.coloraxis.cmid == 0 and figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    assert [(shape.x0 + shape.x1, shape.y0 + shape.y1) for shape in figure.layout.shapes] == [(0, 0), (2, 2), (4, 4)]
    assert "own circuit is better by" in circuits.hovertext[0][1] and "made up" in figure.layout.meta["subtitle"]
    assert "<script" not in json.dumps(json.loads(plotly.io.to_json(figure, engine="json"))["data"])
    assert "*" in circuits.text[0][0]


def test_transfer_matrix_without_random_circuits_or_tasks(given) -> None:
    figure = transfer_matrix(transfer_table(*given, n_random=0))
    assert figure.data[1].text[0][0] == "none" and "q =" not in figure.data[0].hovertext[0][0]
    nothing = {name: Additive([], pairs=3) for name in given[0]}
    for one in nothing.values():
        one.weights[:] = 0
    with pytest.raises(BadParameterError, match="nothing for a circuit to recover"):
        transfer_matrix(transfer_table(nothing, given[1], n_random=2))


def test_dissociation_bars_show_both_tasks_with_intervals(given) -> None:
    table = dissociation_table(*given, n_permutations=200)
    figure = dissociation_bars(table.rows, titles={"a": EVIL})
    assert len(figure.data) == 6 and [bar.showlegend for bar in figure.data] == [True, True] + [False] * 4
    row = table.row("a", "b")
    first, second = figure.data[:2]
    assert first.y == pytest.approx([row.knock_out(which, "a").effect["mean"] for which in ("only_a", "only_b", "shared")], rel=1e-4)
    assert second.y[1] == pytest.approx(row.knock_out("only_b", "b").effect["mean"], rel=1e-4)
    effect = row.knock_out("only_a", "a").effect
    assert first.error_y.array[0] == pytest.approx(effect["high"] - effect["mean"], rel=1e-3)
    assert first.error_y.arrayminus[0] == pytest.approx(effect["mean"] - effect["low"], rel=1e-3)
    assert first.x[0] == "A only<br>(2)" and "a0.h0, a0.h1" in first.hovertext[0]
    titles = [note.text for note in figure.layout.annotations]
    assert any(text.startswith("<b>A</b>") and "<br><b>B</b>" in text and "double dissociation" in text for text in titles)
    assert not any("<script" in text for text in titles)
    with pytest.raises(BadParameterError, match="no pair"):
        dissociation_bars([])


def test_sensitivity_dots_say_the_verdict(given) -> None:
    runners, circuits = given
    spread = {name: Additive(range(20), 5) for name in runners}
    card = sensitivity_card({"resample": runners, "mean_by_mark": spread}, {"a": circuits["a"], "c": circuits["c"]})
    figure = sensitivity_dots(card, titles={"a": EVIL})
    dots = [trace for trace in figure.data if trace.hovertext]
    assert [trace.name for trace in dots] == ["resample", "mean by mark"]
    keys = {trace.name: trace.marker.color for trace in figure.data if trace.showlegend is not False}
    assert [keys[trace.name] for trace in dots] == [trace.marker.color for trace in dots] and len(set(keys.values())) == 3
    row = card.row("c", "mean_by_mark")
    assert dots[1].x[1] == pytest.approx(row.faithfulness["mean"], rel=1e-4)
    assert dots[0].marker.symbol == ("circle", "circle") and dots[1].marker.symbol == ("x", "x")
    assert dots[0].y[0] < 0 < dots[1].y[0]
    assert "flips" in figure.layout.yaxis.ticktext[0] and "<script" not in figure.layout.yaxis.ticktext[0]
    assert figure.layout.shapes[0].x0 == 0.5
    chance = [trace for trace in figure.data if trace.name == "random circuits"]
    assert chance[0].x[0] == pytest.approx(card.row("a", "resample").random_mean, rel=1e-4)


def test_sensitivity_dots_name_what_has_no_gap(given) -> None:
    runners, circuits = given
    dead = Additive([], pairs=3)
    dead.weights[:] = 0
    card = sensitivity_card({"resample": {"a": runners["a"]}, "zero": {"a": dead}}, {"a": circuits["a"]})
    figure = sensitivity_dots(card)
    assert "no gap: a (zero)" in figure.layout.meta["subtitle"]
    (absent,) = (trace for trace in figure.data if trace.name == "zero" and trace.hoverinfo == "text")
    assert len(absent.x) == 0
