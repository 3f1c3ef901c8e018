"""Heads as CSV: exact numbers, key/value heads in rows of their own, one model only."""

from __future__ import annotations

import numpy as np
import pytest

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, IncompatibleError, ScoreFileError
from circuitlab.model.toy import build_planted
from circuitlab.testing.fakes import fake_scores


def test_roles_and_scores_stand_side_by_side(tmp_path) -> None:
    planted = build_planted("induction-gqa")
    table = cl.roles(planted.model, ["induction", "k_composition"])
    scores = cl.methods.LogitAttribution()(planted.model, planted.batch(4), cl.metrics.LogitDiff())
    frame = cl.exports.write_csv(tmp_path / "heads.csv", table, {"copy": scores}).set_index("node")
    for one in table.entries("induction"):
        row = frame.loc[str(one.node)]
        assert [row[f"role.induction.{part}"] for part in ("value", "low", "high", "q")] == [one.value, one.low, one.high, one.q]
        assert bool(row["role.induction.earned"]) == one.earned
    for one in scores.nodes("heads"):
        row = frame.loc[str(one.node)]
        assert (row["score.copy.mean"], row["score.copy.low"], row["score.copy.high"]) == (one.mean, one.low, one.high)
    assert frame.loc["a1.h3", "kv_head"] == 1 and frame.loc["a1.h3", "head"] == 3
    shared = table.scores["k_composition"]
    assert shared.per == "kv_head" and len(frame) == 8 + 4
    assert frame.loc["a1.kv0", "role.k_composition.value"] == shared.value[1, 0]
    assert np.isnan(frame.loc["a1.kv0", "score.copy.mean"]) and np.isnan(frame.loc["a1.h0", "role.k_composition.value"])
    assert [path.name for path in tmp_path.iterdir()] == ["heads.csv"]


def test_what_does_not_belong_together_is_refused(tmp_path) -> None:
    file = tmp_path / "heads.csv"
    with pytest.raises(BadParameterError, match="Neither roles nor scores"):
        cl.exports.write_csv(file)
    with pytest.raises(IncompatibleError, match="of induction-gqa and of another model, fake"):
        cl.exports.write_csv(file, cl.roles(build_planted("induction-gqa").model, "echo"), {"x": fake_scores(np.ones((2, 2, 4)))})
    with pytest.raises(BadParameterError, match="There is no file"):
        cl.exports.read_csv(file)
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ScoreFileError, match="begins with the columns a, b"):
        cl.exports.read_csv(file)
    file.write_text("", encoding="utf-8")
    with pytest.raises(ScoreFileError, match="is no table"):
        cl.exports.read_csv(file)
