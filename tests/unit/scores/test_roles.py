"""RoleScores and RoleTable: intervals, chance and verdicts by hand; query heads and key/value heads apart; what JSON and tables hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.scores.role_scores import Null, RoleProvenance, RoleScores
from circuitlab.scores.role_table import RoleTable
from circuitlab.testing.fakes import fake_provenance

MODEL = fake_provenance(2, 2).model


def made(values, reference, *, role="induction", sample="random sequences", threshold=0.3, within=None, **rest) -> RoleScores:
    about = RoleProvenance(
        role=role,
        params={"rows": 4},
        estimand="mean attention",
        units="share of attention",
        threshold=threshold,
        null="other keys",
        sample=sample,
        digest="",
        model=rest.pop("model", MODEL),
        cite=("olsson2022",),
        kind="attention",
        within=within,
    )
    against = reference if isinstance(reference, Null) else np.asarray(reference, float)
    return RoleScores(np.asarray(values, float), about, against, **rest)


def example() -> RoleScores:
    """Four samples of four heads: one far above both, one above chance only, one above the threshold only, one at chance."""
    values = np.zeros((4, 2, 2))
    values[:, 0, 0] = [0.8, 0.9, 0.7, 0.8]
    values[:, 0, 1] = [0.2, 0.21, 0.19, 0.2]
    values[:, 1, 0] = [0.9, 0.1, 0.8, 0.2]
    control = np.full((4, 2, 2), 0.1)
    control[:, 1, 0] = [0.1, 0.9, 0.2, 0.8]
    control[:, 1, 1] = 0.0
    return made(values, control)


def test_an_interval_of_shares_stays_between_0_and_1() -> None:
    values = np.zeros((4, 2, 2))
    values[:, 0, 0] = [1.0, 1.0 + 1e-6, 0.6, 1.0]
    free, shares = (made(values, np.zeros_like(values), within=within).interval() for within in (None, (0.0, 1.0)))
    assert free.high[0, 0] > 1
    assert shares.high[0, 0] == 1.0
    assert shares.low[0, 0] == pytest.approx(free.low[0, 0], abs=1e-5)


def test_a_share_above_1_is_refused() -> None:
    values = np.full((2, 2, 2), 1.01)
    with pytest.raises(BadParameterError, match=r"Values of 'induction' lie between 1\.01 and 1\.01; possible are 0 to 1"):
        made(values, np.zeros_like(values), within=(0.0, 1.0))


def test_a_role_is_earned_above_the_threshold_and_clear_of_chance() -> None:
    scores = example()
    assert scores.earned().tolist() == [[True, False], [False, False]]
    difference = scores.values - scores.reference
    want = stats.ttest_1samp(difference[:, 0, 0], 0, alternative="greater").pvalue
    assert scores.p_values()[0, 0] == pytest.approx(want)
    assert scores.p_values()[1, 1] == 1, "value and control are the same"
    np.testing.assert_allclose(scores.q_values().ravel(), stats.false_discovery_control(scores.p_values().ravel()))
    error = difference[:, 0, 1].std(ddof=1) / 2
    assert scores.chance()[0, 1] == pytest.approx(0.1 + stats.t.ppf(0.95, 3) * error)
    assert scores.interval().low[0, 0] == pytest.approx(0.8 - stats.t.ppf(0.975, 3) * np.std([0.8, 0.9, 0.7, 0.8], ddof=1) / 2)


def test_draws_of_a_null_give_chance_and_p_values() -> None:
    null = np.arange(99).reshape(99, 1, 1) / 100 * np.ones((1, 2, 2))
    values = np.array([[[0.99, 0.5], [0.98, 0.0]]])
    scores = made(values, Null.of(null, values[0]), sample="")
    assert scores.weights_only and scores.n_samples == 0 and np.isnan(scores.interval().low).all()
    assert scores.p_values().ravel().tolist() == pytest.approx([1 / 100, 50 / 100, 2 / 100, 1.0])
    np.testing.assert_allclose(scores.chance(), np.quantile(np.arange(99) / 100, 0.95))
    assert scores.earned().tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("draws", [False, True])
def test_what_is_stored_is_what_was_measured(draws) -> None:
    values = np.random.default_rng(0).random((1, 2, 2)) if draws else example().values
    scores = made(values, Null.of(np.random.default_rng(1).random((99, 2, 2)), values[0]), sample="") if draws else example()
    again = RoleScores.from_plain(json.loads(json.dumps(scores.to_plain())), scores.provenance)
    for name in ("value", "chance", "p_values", "q_values", "earned"):
        mine, theirs = (getattr(one, name) for one in (scores, again))
        np.testing.assert_array_equal(mine() if callable(mine) else mine, theirs() if callable(theirs) else theirs)
    np.testing.assert_array_equal(scores.values, again.values)


def test_one_sample_earns_nothing() -> None:
    scores = made(np.ones((1, 2, 2)), np.zeros((1, 2, 2)))
    assert (scores.p_values() == 1).all() and np.isnan(scores.chance()).all() and not scores.earned().any()


@pytest.mark.parametrize(
    ("values", "reference", "rest", "said"),
    [
        (np.ones((3, 2, 2)), np.ones((2, 2, 2)), {}, "control has shape"),
        (np.ones((3, 2, 1)), np.ones((3, 2, 1)), {}, "heads are"),
        (np.ones((0, 2, 2)), np.ones((0, 2, 2)), {}, "heads are"),
        (np.full((3, 2, 2), np.nan), np.ones((3, 2, 2)), {}, "not finite"),
        (np.ones((3, 2, 2)), np.ones((3, 2, 2)), {"sample": ""}, "which has none"),
    ],
)
def test_wrong_shapes_are_refused(values, reference, rest, said) -> None:
    with pytest.raises(BadParameterError, match=said):
        made(values, reference, **rest)


def table() -> RoleTable:
    shared = made(np.full((3, 2, 1), 0.9), np.full((3, 2, 1), 0.1), role="copying", per="kv_head")
    return RoleTable(MODEL, {"induction": example(), "copying": shared}, {"sink": "fake has no tokenizer."})


def test_a_table_says_what_each_head_earns() -> None:
    found = table()
    assert found.earned_by("a0.h0") == ["induction"] and found.earned_by("a1.h1") == []
    assert found.earned_by("a1.kv0") == ["copying"], "what a shared key/value head earns is not its query heads'"
    assert [str(head) for head in found.without_role()] == ["a0.h1", "a1.h0", "a1.h1"]
    assert [str(one.node) for one in found.earners("induction")] == ["a0.h0"]
    assert repr(found) == "RoleTable(fake, 2 roles, 1 refused: 1 of 4 heads earns a role)"
    with pytest.raises(UnknownNameError, match=r"a7\.h0"):
        found.earned_by("a7.h0")
    with pytest.raises(UnknownNameError, match="inductoin"):
        found.entries("inductoin")


def test_what_json_and_frames_hold() -> None:
    document = json.loads(json.dumps(table().to_dict(), allow_nan=False))
    assert document["model"] == "fake" and document["refused"] == {"sink": "fake has no tokenizer."}
    induction = document["roles"][0]
    assert {"name", "kind", "estimand", "units", "threshold", "null", "sample", "n_samples", "per", "params", "cite"} <= set(induction)
    assert induction["n_samples"] == 4 and induction["earned"] == 1 and induction["kind"] == "attention"
    rows = {row["head"]: row for row in document["heads"]}
    assert list(rows) == ["a0.h0", "a0.h1", "a1.h0", "a1.h1", "a0.kv0", "a1.kv0"]
    assert rows["a0.h0"]["earned"] == ["induction"] and set(rows["a1.kv0"]["roles"]) == {"copying"}
    entry = rows["a0.h0"]["roles"]["induction"]
    assert set(entry) == {"value", "low", "high", "chance", "p", "q", "earned"} and entry["low"] < entry["value"] == 0.8 < entry["high"]
    assert document["no_role"] == ["a0.h1", "a1.h0", "a1.h1"]
    frame = table().to_frame()
    assert len(frame) == 4 + 2 and frame["earned"].sum() == 3
    assert set(frame[frame["role"] == "copying"]["node"]) == {"a0.kv0", "a1.kv0"}
    alone = RoleTable(MODEL, {"one": made(np.ones((1, 2, 2)), np.zeros((1, 2, 2)), role="one")})
    assert alone.to_dict()["heads"][0]["roles"]["one"]["low"] is None, "no interval from one sample"


def test_html_names_the_heads_the_null_and_what_was_refused() -> None:
    page = table()._repr_html_()
    assert "a0.h0 0.80 [" in page and "other keys" in page and "sink was not measured: fake has no tokenizer." in page
    assert "3 of 4 heads earn none of the 2 roles that were measured" in page


def test_roles_of_two_models_make_no_table() -> None:
    other = made(np.ones((2, 3, 2)), np.zeros((2, 3, 2)), model=fake_provenance(3, 2).model)
    with pytest.raises(BadParameterError, match="another model"):
        RoleTable(MODEL, {"induction": other})
    with pytest.raises(BadParameterError, match="measured and refused"):
        RoleTable(MODEL, {"induction": example()}, {"induction": "no"})
