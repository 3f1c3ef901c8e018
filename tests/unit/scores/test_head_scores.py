"""HeadScores: labels, sign, intervals, ranking, fractions, residuals, tables, files."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError, EmptyGapError, UnknownNameError
from circuitlab.core.nodes import Head, Mlp, Universe
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import mean_interval
from circuitlab.testing.fakes import fake_provenance, fake_scores


@pytest.fixture
def values():
    return np.random.default_rng(0).normal(size=(8, 3, 4))


def gap(n=8):
    return {"total": np.full(n, 2.0), "clean": np.full(n, 3.0), "corrupt": np.full(n, 1.0)}


def with_marks(values):
    return HeadScores.build({"heads": np.stack([values, -values], axis=1), **gap()}, fake_provenance(3, 4), marks=["S2", "END"])


def test_build_labels_arrays(values):
    scores = fake_scores(values, mlps=values[:, :, 0])
    assert scores.dataset["heads"].dims == ("pair", "layer", "head")
    assert scores.parts == ("heads", "mlps")
    assert scores.n_pairs == 8
    assert scores.marks is None
    assert scores.universe == Universe(3, 4, 1)
    assert np.array_equal(scores.values("heads"), values)


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ({"heads": np.zeros((8, 4, 3))}, BadParameterError, "has shape"),
        ({"heads": np.zeros((7, 3, 4))}, BadParameterError, "has shape"),
        ({"heads": np.full((8, 3, 4), np.nan)}, BadParameterError, "not finite"),
        ({"heads": np.full((8, 3, 4), np.inf)}, BadParameterError, "not finite"),
        ({"haeds": np.zeros((8, 3, 4))}, UnknownNameError, "Did you mean 'heads'"),
    ],
)
def test_build_refuses_what_does_not_fit(arrays, error, words):
    with pytest.raises(error, match=words):
        HeadScores.build({**arrays, **gap()}, fake_provenance(3, 4))


def test_build_names_what_is_missing(values):
    with pytest.raises(BadParameterError, match="lack clean, corrupt"):
        HeadScores.build({"heads": values, "total": np.zeros(8)}, fake_provenance(3, 4))


def test_mean_and_interval_are_over_pairs(values):
    scores = fake_scores(values)
    assert scores.mean() == pytest.approx(values.mean(0))
    for ours, theirs in zip(scores.interval(), mean_interval(values), strict=True):
        assert np.asarray(ours) == pytest.approx(theirs)


def test_mean_of_half_precision_does_not_lose_digits():
    heads = np.full((4096, 1, 1), 0.1, dtype=np.float32)
    scores = HeadScores.build({"heads": heads, **gap(4096)}, fake_provenance(1, 1))
    assert scores.mean()[0, 0] == pytest.approx(float(np.float32(0.1)), abs=1e-12)


def test_top_ranks_by_magnitude_help_or_harm():
    mean = np.array([[1.0, -3.0], [2.0, 1.0]])
    scores = fake_scores(mean + np.linspace(-0.1, 0.1, 5)[:, None, None])
    assert [str(s.node) for s in scores.top(3)] == ["a0.h1", "a1.h0", "a0.h0"]
    assert [str(s.node) for s in scores.top(2, by="positive")] == ["a1.h0", "a0.h0"]
    assert [str(s.node) for s in scores.top(1, by="negative")] == ["a0.h1"]
    assert len(scores.top(99)) == 4
    with pytest.raises(UnknownNameError, match="ranking"):
        scores.top(by="size")


def test_nodes_come_in_forward_order_with_limits(values):
    entries = fake_scores(values, mlps=values[:, :, 0]).nodes("mlps")
    assert [entry.node for entry in entries] == [Mlp(0), Mlp(1), Mlp(2)]
    assert all(entry.low < entry.mean < entry.high for entry in entries)


def test_marks_need_a_name(values):
    scores = with_marks(values)
    assert scores.marks == ("S2", "END")
    assert scores.mean(mark="END") == pytest.approx(-scores.mean(mark="S2"))
    assert scores.values().shape == (8, 2, 3, 4)
    with pytest.raises(BadParameterError, match="resolved by mark"):
        scores.nodes()
    with pytest.raises(UnknownNameError, match="Did you mean 'END'"):
        scores.mean(mark="end")
    with pytest.raises(UnknownNameError, match="mark"):
        fake_scores(values).values(mark="END")


def test_unknown_part(values):
    with pytest.raises(UnknownNameError, match="Known: heads"):
        fake_scores(values).mean("mlps")


def test_fraction_is_a_share_of_the_total(values):
    scores = HeadScores.build({"heads": values, **gap()}, fake_provenance(3, 4))
    assert scores.fraction() == pytest.approx(values.mean(0) / 2.0)


def test_fraction_refuses_an_empty_gap(values):
    arrays = {"heads": values, **gap(), "total": np.linspace(-1, 1.2, 8)}
    with pytest.raises(EmptyGapError, match="may be 0"):
        HeadScores.build(arrays, fake_provenance(3, 4)).fraction()


def test_residual_of_an_additive_method(values):
    exact = fake_scores(values, mlps=values[:, :, 1], additive=True)
    assert exact.residual() == pytest.approx(np.zeros(8), abs=1e-12)
    arrays = {"heads": values, **gap(), "bias": np.full(8, 0.5)}
    off = HeadScores.build(arrays, fake_provenance(3, 4, {"additive": True}))
    assert off.residual() == pytest.approx(2.0 - 0.5 - values.sum((1, 2)))


def test_residual_refuses_a_method_that_is_not_additive(values):
    with pytest.raises(BadParameterError, match="not additive"):
        fake_scores(values).residual()


def test_sel_keeps_pairs_and_provenance(values):
    scores = fake_scores(values)
    mask = np.arange(8) % 2 == 0
    assert np.array_equal(scores.sel([0, 2, 4, 6]).values(), values[::2])
    assert np.array_equal(scores.sel(mask).values(), values[::2])
    assert scores.sel([1]).provenance == scores.provenance


def test_frame_is_tidy(values):
    frame = fake_scores(values, task="ioi", mlps=values[:, :, 0], ready=False).to_frame()
    assert len(frame) == 12 + 3
    row = frame[frame.node == str(Head(1, 2))].iloc[0]
    assert row["mean"] == pytest.approx(values[:, 1, 2].mean())
    assert (row["layer"], row["head"], row["mark"], row["n"], row["task"]) == (1, 2, "all", 8, "ioi")
    assert not row["task_ready"]
    assert frame[frame.part == "mlps"]["head"].isna().all()
    assert len(with_marks(values).to_frame()) == 24


def test_save_and_load(values, tmp_path):
    scores = with_marks(values)
    again = HeadScores.load(scores.save(tmp_path / "a.nc"))
    assert again.dataset.identical(scores.dataset)
    assert again.provenance == scores.provenance
