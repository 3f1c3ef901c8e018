"""Pictures of scores from weights alone: no dots, no whiskers, no pale bars, and a line that says why."""

from __future__ import annotations

import json

import numpy as np
import pytest

from circuitlab import figures
from circuitlab.circuits import TopK
from circuitlab.comparison import Sampling, compare_methods
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.testing.fakes import fake_scores, fake_weights_scores

SAID = "no interval: from weights alone, without prompts"
VALUES = np.array([[0.1, -0.9, 0.3, 0.2], [0.8, 0.0, -0.2, 0.5], [0.4, 0.6, -0.7, -0.1]])
WEIGHTS = fake_weights_scores(VALUES)
PROMPTS = fake_scores(np.random.default_rng(0).normal(size=(8, 3, 4)))


def test_the_map_has_no_dots_and_says_why() -> None:
    figure = figures.head_heatmap(WEIGHTS)
    (shown,) = figure.data
    assert np.array(shown.z).tolist() == VALUES.tolist()
    assert SAID in figure.layout.meta["subtitle"] and "prompt pairs" not in figure.layout.meta["subtitle"]
    assert figure.layout.meta["title"] == "weights alone: fake weights, attention heads"
    assert "mean" not in figure.layout.coloraxis.colorbar.title.text
    assert all(SAID in text and "nan" not in text for row in shown.hovertext for text in row)
    assert len(figures.head_heatmap(PROMPTS).data) == 2, "scores on prompts have dots"


def test_bars_have_no_whiskers_and_none_is_pale() -> None:
    figure = figures.top_heads(WEIGHTS, 5)
    assert [bar.name for bar in figure.data] == ["positive", "negative"]
    assert all(bar.error_x.array is None and set(bar.marker.opacity) == {0.9} for bar in figure.data)
    assert SAID in figure.layout.xaxis.title.text and "95 %" not in figure.layout.xaxis.title.text
    assert [row for bar in figure.data for row in bar.y] == ["a1.h0", "a2.h1", "a1.h3", "a2.h2", "a0.h1"]
    plain = figures.top_heads(PROMPTS, 5)
    assert plain.data[0].error_x.array is not None and "helps the answer" in {bar.name for bar in plain.data}


def test_weights_are_drawn_against_a_method_on_any_task() -> None:
    figure = figures.scatter_methods(PROMPTS, WEIGHTS, label=3, k=4)
    named = figure.data[1]
    assert named.error_x.array is not None and named.error_y.array is None
    assert all("(from weights)" in text and "nan" not in text for text in named.hovertext)
    for one, two in ((PROMPTS, WEIGHTS), (WEIGHTS, PROMPTS)):
        assert figures.scatter_methods(one, two).layout.meta["title"] == "a: two methods, the same heads?"
    assert SAID in figures.scatter_methods(WEIGHTS, WEIGHTS).layout.meta["subtitle"]
    with pytest.raises(IncompatibleError, match="not the same heads and task"):
        figures.scatter_methods(PROMPTS, fake_scores(PROMPTS.values(), task="b"))


def test_an_unready_task_is_seen_also_where_weights_come_first() -> None:
    unready = fake_scores(PROMPTS.values(), ready=False)
    assert any(note.name == "near-chance" for note in figures.scatter_methods(WEIGHTS, unready).layout.annotations)


def test_the_overlap_matrix_leaves_out_what_is_not_known() -> None:
    table = compare_methods({"patching": PROMPTS, "weights": WEIGHTS}, TopK(4), Sampling(n_boot=50, n_null=100))
    figure = figures.method_agreement(table)
    assert "nan" not in json.dumps(figure.to_plotly_json(), default=str).lower()
    below = figure.data[0]
    assert below.z[1][1] is None and below.z[0][0] is not None
    assert "no interval" in below.text[1][0] and "weights alone" in below.hovertext[1][1]


def test_what_has_no_marks_or_signs_is_refused_as_before() -> None:
    with pytest.raises(BadParameterError, match="no mark axis"):
        figures.mark_heatmap(WEIGHTS)
    with pytest.raises(BadParameterError, match=r"lowest mean score is -0\.9"):
        figures.code_map(WEIGHTS)
    assert figures.code_map(fake_weights_scores(np.abs(VALUES))).data[0].zmax == 0.9


def test_grades_of_weights_have_no_interval() -> None:
    auroc = {"mean": 0.9, "low": float("nan"), "high": float("nan")}
    seen = {"model": "copy-gqa", "method": "weights", "auroc": auroc, "visible": True, "reason": ""}
    unseen = seen | {"model": "names-gqa", "visible": False, "reason": "It copies."}
    text = json.dumps(figures.scoreboard_table([seen, unseen]).to_plotly_json(), default=str)
    assert text.count("no interval") == 4 and "nan" not in text.lower().replace("names", "")
