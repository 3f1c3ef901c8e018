"""Scores from weights alone have no pair axis: they rank, select, show and store themselves, and never have an interval."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from circuitlab.circuits import Cumulative, Significant, Threshold, TopK
from circuitlab.circuits.select import needs_pairs_for
from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head
from circuitlab.core.provenance import WEIGHTS_ALONE, Provenance
from circuitlab.scores.head_scores import HeadScores
from circuitlab.testing.fakes import fake_provenance, fake_scores, fake_weights_scores

VALUES = np.array([[0.1, -0.9, 0.3], [0.8, 0.0, -0.2]])


@pytest.fixture
def scores() -> HeadScores:
    return fake_weights_scores(VALUES)


def test_there_is_one_value_per_node_and_no_pair(scores) -> None:
    assert scores.dataset["heads"].dims == ("layer", "head")
    assert (scores.weights_only, scores.n_pairs, scores.marks, scores.parts) == (True, 0, None, ("heads",))
    np.testing.assert_array_equal(scores.values(), VALUES)
    np.testing.assert_array_equal(scores.mean(), VALUES)
    assert not fake_scores(VALUES[None]).weights_only


@pytest.mark.parametrize("method", ["t", "bca"])
def test_no_interval_is_made_up(scores, method) -> None:
    found = scores.interval(method=method)
    np.testing.assert_array_equal(found.mean, VALUES)
    assert np.isnan(found.low).all() and np.isnan(found.high).all()
    assert found.low.shape == VALUES.shape
    assert not found.excludes_zero().any()


def test_nodes_are_ranked_and_looked_up(scores) -> None:
    assert [str(one.node) for one in scores.top(3)] == ["a0.h1", "a1.h0", "a0.h2"]
    assert [str(one.node) for one in scores.top(1, by="positive")] == ["a1.h0"]
    one = scores["a0.h1"]
    assert (one.node, one.mean) == (Head(0, 1), -0.9)
    assert np.isnan(one.low) and np.isnan(one.high)
    assert len(scores.nodes()) == VALUES.size


@pytest.mark.parametrize(
    ("arrays", "marks", "error", "says"),
    [
        ({"heads": VALUES[None]}, None, BadParameterError, "has shape"),
        ({"heads": VALUES.T}, None, BadParameterError, "has shape"),
        ({"heads": VALUES * np.nan}, None, BadParameterError, "not finite"),
        ({"heads": VALUES, "total": np.ones(3)}, None, BadParameterError, "contain total, which only prompts can give"),
        ({"heads": VALUES[None]}, ["END"], BadParameterError, "contain marks"),
        ({"haeds": VALUES}, None, UnknownNameError, "Did you mean 'heads'"),
        ({}, None, BadParameterError, "contain no part"),
    ],
)
def test_build_refuses_what_weights_cannot_have(scores, arrays, marks, error, says) -> None:
    with pytest.raises(error, match=says):
        HeadScores.build(arrays, scores.provenance, marks)


@pytest.mark.parametrize(
    ("ask", "lacks"),
    [
        (lambda s: s.gap(), "no gap between clean and corrupt"),
        (lambda s: s.fraction(), "no total that scores are a share of"),
        (lambda s: s.sel([0]), "no subset of pairs"),
        (lambda s: HeadScores(s.dataset, msgspec.structs.replace(s.provenance, additive=True)).residual(), "no total that parts sum to"),
        (Significant(0.05), "no test whether a score differs from 0"),
        (Threshold(0.5, units="fraction"), "no total that scores are a share of"),
    ],
)
def test_what_needs_pairs_is_refused_with_the_reason(scores, ask, lacks) -> None:
    with pytest.raises(BadParameterError, match=f"'fake_weights' come from weights alone: there are no prompt pairs.*there is {lacks}"):
        ask(scores)


def test_which_rules_need_pairs_is_known_before_there_are_scores() -> None:
    assert needs_pairs_for(Significant()) and needs_pairs_for(Threshold(0.5, units="fraction"))
    assert [needs_pairs_for(rule) for rule in (TopK(2), Threshold(0.5), Cumulative(0.5))] == [""] * 3


def test_circuits_are_picked_by_the_scores_themselves(scores) -> None:
    assert set(map(str, TopK(2)(scores))) == {"a0.h1", "a1.h0"}
    assert set(map(str, TopK(1, by="negative")(scores))) == {"a0.h1"}
    assert set(map(str, Threshold(0.3, by="positive")(scores))) == {"a0.h2", "a1.h0"}
    assert set(map(str, Cumulative(0.7)(scores))) == {"a0.h1", "a1.h0"}
    circuit = TopK(2)(scores)
    assert circuit.ready and circuit.sources == (scores.provenance.run_id(),)


def test_text_and_html_say_that_there_is_no_interval(scores) -> None:
    for text in (repr(scores), scores._repr_html_()):
        assert "no interval: from weights alone, without prompts" in text
        assert "from weights alone, fake" in text
        assert "a0.h1" in text and "-0.9" in text
        assert "nan" not in text and "pairs" not in text and "helps the answer" not in text and "95 %" not in text
    assert "[" not in repr(scores)


def test_tables_leave_the_limits_empty(scores) -> None:
    frame = scores.to_frame()
    assert frame["mean"].tolist() == VALUES.ravel().tolist()
    assert frame[["low", "high"]].isna().all(axis=None)
    assert set(frame["n"]) == {0} and set(frame["task"]) == {"weights alone"}


def test_files_read_back_equal(scores, tmp_path) -> None:
    back = HeadScores.load(scores.save(tmp_path / "weights.nc"))
    assert back.provenance == scores.provenance and back.weights_only
    assert back.dataset.identical(scores.dataset)
    assert repr(back) == repr(scores)


def test_provenance_says_that_no_task_has_a_part(scores) -> None:
    about = scores.provenance
    assert about.weights_only and about.task == WEIGHTS_ALONE
    assert msgspec.json.decode(msgspec.json.encode(about), type=Provenance).weights_only
    assert not fake_provenance(2, 3).weights_only
    other = msgspec.structs.replace(about, task=fake_provenance(2, 3).task)
    assert other.run_id() != about.run_id()
