"""Relevance as pictures: a map of heads, a highlighted prompt, and a recursion as a layered graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from circuitlab.circuits import Circuit
from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head, Logits, Universe
from circuitlab.figures.recursion import recursion_diagram
from circuitlab.figures.relevance import phrase_highlights, relevance_heatmap

UNIVERSE = Universe(4, 4, 2)


def phrases(figure) -> list:
    return [note for note in figure.layout.annotations if note.name == "phrase"]


def test_the_map_shows_every_head_and_leaves_out_those_that_come_later() -> None:
    values = np.array([[1.0, 2.0, 0.0], [0.5, np.nan, np.nan]])
    figure = relevance_heatmap(values, "a1.h0<q>")
    heat = figure.data[0]
    assert [list(row) for row in heat.z] == [[1.0, 2.0, 0.0], [0.5, None, None]]
    assert figure.layout.coloraxis.cmin == 0 and figure.layout.coloraxis.cmax == 2.0
    assert heat.hovertext[0][1] == "<b>a0.h1</b><br>relevance to a1.h0&lt;q&gt;: 2"
    assert "a1.h0" in figure.layout.meta["title"]


@pytest.mark.parametrize("values", [np.ones(3), np.array([[-1.0]]), np.array([[np.inf]]), np.ones((0, 3))])
def test_what_is_no_relevance_is_refused(values) -> None:
    with pytest.raises(BadParameterError):
        relevance_heatmap(values, "logits")


def test_phrases_are_highlighted_by_sign_and_size() -> None:
    figure = phrase_highlights(["A very", " dull", " film"], [2.0, -1.0, 0.0])
    first, second, third = phrases(figure)
    assert first.bgcolor == "rgba(49,130,189,0.75)" and second.bgcolor == "rgba(217,105,30,0.375)" and third.bgcolor.endswith(",0.0)")
    assert [note.x for note in (first, second, third)] == [0, 6, 11]
    assert second.text == "\u00a0dull" and second.hovertext == "<b>dull</b><br>-1 logits"
    assert figure.layout.coloraxis.cmin == -2 and figure.layout.coloraxis.cmax == 2


def test_phrases_break_into_lines_and_are_plain_text() -> None:
    texts = ["<b>x</b>", *[" word"] * 40, "long" * 50, "a\nb"]
    figure = phrase_highlights(texts, np.linspace(-1, 1, len(texts)))
    found = phrases(figure)
    lines = {note.y for note in found}
    assert len(lines) > 3 and max(lines) < figure.layout.yaxis.range[0]
    assert all(note.x + len(note.text.replace("&lt;", "<").replace("&gt;", ">")) <= 90 for note in found)
    assert "<b>" not in found[0].text and found[-1].text == "a\u21b5b"
    assert "".join(note.text for note in found).count("long") >= 49


@pytest.mark.parametrize(("texts", "values"), [([], []), (["a"], [1.0, 2.0]), (["a"], [float("nan")])])
def test_phrases_need_one_finite_value_each(texts, values) -> None:
    with pytest.raises(BadParameterError, match="cannot be drawn"):
        phrase_highlights(texts, values)


@dataclass(frozen=True)
class Stage:
    added: tuple[Head, ...]
    edges: dict
    value: float


def stages() -> list[Stage]:
    late, later, early, other = Head(3, 1), Head(2, 0), Head(1, 2), Head(0, 3)
    return [
        Stage((later, late), {(late, Logits()): 2.0, (later, Logits()): -1.0}, 1.5),
        Stage((other, early), {(early, late): 0.9, (early, later): 0.3, (other, late): 0.1, (other, later): 0.05}, 2.5),
    ]


def test_the_recursion_has_a_colour_for_each_stage_and_pale_heads_that_were_dropped() -> None:
    circuit = Circuit(frozenset({Head(3, 1), Head(2, 0), Head(1, 2)}), UNIVERSE, rule="by relevance")
    figure = recursion_diagram(stages(), circuit, strongest=1)
    first, second = (trace for trace in figure.data if trace.meta == "heads")
    assert first.text == ("2.0", "3.1") and second.text == ("0.3", "1.2")
    assert first.marker.color != second.marker.color
    assert first.marker.opacity == (1.0, 1.0) and second.marker.opacity == (0.35, 1.0)
    told = [text for trace in figure.data if trace.meta == "hover" for text in trace.hovertext]
    assert told == [
        "<b>a2.h0 to logits</b><br>relevance -1",
        "<b>a3.h1 to logits</b><br>relevance 2",
        "<b>a0.h3 to a3.h1</b><br>relevance 0.1",
        "<b>a1.h2 to a3.h1</b><br>relevance 0.9",
    ]
    dotted = [trace for trace in figure.data if trace.meta == "lines" and trace.line.dash == "dot"]
    assert len(dotted) == 1 and dotted[0].line.color == first.marker.color
    height = dict(zip(first.text + second.text, first.y + second.y, strict=True))
    assert height["0.3"] < height["1.2"] < height["2.0"] < height["3.1"]


def test_more_lines_where_asked_for_and_nothing_to_draw_is_refused() -> None:
    circuit = Circuit(frozenset({Head(3, 1)}), UNIVERSE)
    told = [text for trace in recursion_diagram(stages(), circuit).data if trace.meta == "hover" for text in trace.hovertext]
    assert len(told) == 6
    for some, strongest in (([], 3), ([Stage((), {}, 0.0)], 3), (stages(), 0)):
        with pytest.raises(BadParameterError, match="cannot be drawn"):
            recursion_diagram(some, circuit, strongest=strongest)
