"""Pictures of codes and of ROC curves as data."""

from __future__ import annotations

import json

import numpy as np
import plotly.io
import pytest

from circuitlab.circuits.roc import roc_of_values
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.figures.code_map import code_map, code_table
from circuitlab.figures.curve import SizeCurve
from circuitlab.figures.roc import auroc_by_examples, roc_curves
from circuitlab.testing.fakes import fake_scores

EVIL = "<script>alert(1)</script>"


def counts() -> np.ndarray:
    heads = np.zeros((4, 3, 5))
    heads[:, 1, 2], heads[0, 2, 4] = 3.0, 4.0
    return heads


def test_map_starts_at_zero_and_rings_what_is_significant() -> None:
    p = np.full((3, 5), 0.6)
    p[1, 2], p[2, 4] = 0.001, 0.04
    figure = code_map(fake_scores(counts()), p)
    cells, rings = figure.data
    assert np.allclose(np.array(cells.z), counts().mean(0)) and (cells.zmin, cells.zmax) == (0, 3)
    assert (list(rings.x), list(rings.y)) == ([2], [1]), "0.04 of 15 heads is no discovery"
    assert "a1.h2" in cells.hovertext[1][2] and "p = 0.001" in cells.hovertext[1][2]
    assert "1 heads significant" in figure.layout.meta["subtitle"]
    assert list(figure.layout.yaxis.range) == [2.5, -0.5]


def test_map_without_p_values_rings_nothing() -> None:
    assert len(code_map(fake_scores(counts())).data) == 1
    assert code_map(fake_scores(counts() * 0)).data[0].zmax == 1


def test_map_refuses_what_it_cannot_show() -> None:
    with pytest.raises(BadParameterError, match="0 or more"):
        code_map(fake_scores(counts() - 1))
    with pytest.raises(BadParameterError, match="do not fit"):
        code_map(fake_scores(counts()), np.zeros((5, 3)))
    with pytest.raises(UnknownNameError, match="mark"):
        code_map(fake_scores(counts()), mark="END")


def test_table_colours_codes_by_the_side_they_occur_on() -> None:
    clean, corrupt = np.array([[7, -1], [3, -1]]), np.array([[3, 4], [5, -1]])
    figure = code_table(clean, corrupt, ["a0.h1", EVIL], prompts=["a", "b", EVIL, "d"])
    cells = figure.data[0]
    assert np.array(cells.z).tolist() == [[1, 0], [0, 0], [0, -1], [-1, 0]]
    assert [list(row) for row in cells.text] == [["7", "-"], ["3", "-"], ["3", "4"], ["5", "-"]]
    assert list(cells.y) == ["clean 0", "clean 1", "corrupt 0", "corrupt 1"]
    assert EVIL not in json.dumps(plotly.io.to_json(figure)).replace(EVIL.replace("<", "&lt;"), "")
    with pytest.raises(BadParameterError, match="do not fit"):
        code_table(clean, corrupt, ["one"])


def curves() -> dict:
    truth = np.array([1, 1, 0, 0, 0], bool)
    sharp, blunt = (roc_of_values(np.array(values, float), truth) for values in ([5, 4, 3, 2, 1], [1, 5, 4, 2, 3]))
    return {"ioi": {"code overlap": sharp, "eap": blunt}, "docstring": {"eap": blunt}}


def test_roc_has_a_panel_per_task_and_a_colour_per_method() -> None:
    figure = roc_curves(curves())
    lines = [trace for trace in figure.data if trace.meta == "roc"]
    assert [(line.name, line.xaxis) for line in lines] == [("code overlap", "x"), ("eap", "x"), ("eap", "x2")]
    assert lines[1].line.color == lines[2].line.color != lines[0].line.color
    assert [line.showlegend for line in lines] == [True, True, False]
    wanted = curves()["ioi"]["eap"]
    assert np.allclose(lines[1].x, wanted.false_positive) and np.allclose(lines[1].y, wanted.true_positive)
    assert f"area {wanted.auroc:.3f}" in lines[1].hovertext[0] and "2 nodes in the circuit, 3 outside" in lines[1].hovertext[0]
    assert sum(trace.meta == "chance" for trace in figure.data) == 2
    texts = [entry.text for entry in figure.layout.annotations]
    assert any("ioi" in text and "best code overlap: 1.00" in text for text in texts)


def test_roc_of_nothing_is_refused() -> None:
    for nothing in ({}, {"ioi": {}}):
        with pytest.raises(BadParameterError, match="no curve"):
            roc_curves(nothing)


def area(mean, spread: float = 0.05) -> SizeCurve:
    mean = np.array(mean)
    return SizeCurve(np.array([5, 10, 50]), mean, mean - spread, mean + spread)


def test_area_by_examples_has_bars_baselines_and_chance() -> None:
    figure = auroc_by_examples({"ioi": area([0.6, 0.8, 0.85])}, {"eap": 0.7})
    line = figure.data[0]
    assert list(line.x) == [5, 10, 50] and list(line.y) == [0.6, 0.8, 0.85]
    assert np.allclose(line.error_y.array, 0.05) and np.allclose(line.error_y.arrayminus, 0.05)
    assert [shape.y0 for shape in figure.layout.shapes] == [0.5, 0.7]
    assert [entry.text for entry in figure.layout.annotations if entry.name == "reference"] == ["blind guess", "eap"]
    bare = auroc_by_examples({"ioi": area([0.6, 0.8, 0.85], np.nan)})
    assert not any(bare.data[0].error_y.array)
    with pytest.raises(BadParameterError, match="cannot be drawn"):
        auroc_by_examples({"ioi": area([0.6, 1.8, 0.85])})
    with pytest.raises(BadParameterError, match="0 curves"):
        auroc_by_examples({}, {"eap": 0.5})
