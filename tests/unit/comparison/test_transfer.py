"""Transfer, dissociation and sensitivity on runs with known truth: planted effects are found, null ones are not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from circuitlab.circuits import Circuit
from circuitlab.comparison.dissociation import SETS, dissociation_table, sign_flip_p
from circuitlab.comparison.sensitivity import sensitivity_card
from circuitlab.comparison.transfer import transfer_table
from circuitlab.core.errors import BadParameterError, IncompatibleError, UnknownNameError
from circuitlab.core.nodes import Embed, Head, Mlp, Universe

SHAPE = Universe(4, 5, 1)
N = 20


@dataclass
class Additive:
    """A task whose metric is the sum of what its heads add, with noise per pair and head: every faithfulness is known."""

    weights: np.ndarray
    noise: float = 0.1
    pairs: int = 24
    seed: int = 0
    offset: float = -1.0

    def metric_of(self, masks: np.ndarray) -> np.ndarray:
        own = np.random.default_rng(self.seed).normal(0, self.noise, (N, self.pairs))
        return self.offset + masks @ (self.weights[:, None] + own)


def circuit(*places: int) -> Circuit:
    return Circuit(frozenset(Head(*divmod(place, 5)) for place in places), SHAPE)


def weights(**by_place: float) -> np.ndarray:
    out = np.zeros(N)
    for name, value in by_place.items():
        out[int(name[1:])] = value
    return out


A, B = circuit(0, 1, 2), circuit(2, 3, 4)
ONE, TWO = weights(h0=1, h1=1, h2=2), weights(h2=1, h3=1, h4=2)


def both(**settings) -> dict[str, Additive]:
    return {"a": Additive(ONE, seed=1, **settings), "b": Additive(TWO, seed=2, **settings)}


def test_transfer_gives_known_shares() -> None:
    table = transfer_table(both(noise=0.01), {"a": A, "b": B}, n_random=60)
    np.testing.assert_allclose(table.matrix(), [[1, 0.25], [0.5, 1]], atol=0.02)
    np.testing.assert_allclose(table.matrix("loss"), [[0, 0.75], [0.5, 0]], atol=0.02)
    np.testing.assert_allclose(table.matrix("core"), [[1, 0.25], [0.5, 1]], atol=0.02)
    cell = table.cell("b", "a")
    assert (cell.size, cell.core_size) == (3, 1)
    assert cell.faithfulness["low"] <= cell.faithfulness["mean"] <= cell.faithfulness["high"]
    # A random circuit of 3 of 20 heads holds each head with probability 0.15.
    assert cell.random["mean"] == pytest.approx(0.15, abs=0.08)
    assert cell.relative["mean"] == pytest.approx((0.5 - cell.random["mean"]) / (1 - cell.random["mean"]), abs=0.02)
    assert table.shared_heads == ("a0.h2",) and float(table.shared["a"].mean) == pytest.approx(0.5, abs=0.02)
    assert table.cell("a", "a").loss == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert table.cell("a", "a").p == 1 / 61


def test_transfer_keeps_every_pair_and_says_how() -> None:
    table = transfer_table(both(pairs=7), {"a": A, "b": B}, n_random=5, conventions={"ablation": "made up"})
    assert table.values["a"]["circuits"].shape == (2, 7) and table.values["a"]["random 3"].shape == (5, 7)
    said = table.to_dict()
    assert len(said["per_pair"]["b"]["circuits"]["a"]) == 7
    mean = np.mean(said["per_pair"]["b"]["circuits"]["a"]) - np.mean(said["per_pair"]["b"]["empty"])
    gap = np.mean(said["per_pair"]["b"]["full"]) - np.mean(said["per_pair"]["b"]["empty"])
    assert mean / gap == pytest.approx(table.cell("a", "b").faithfulness["mean"])
    assert said["conventions"]["ablation"] == "made up" and "Benjamini" in said["conventions"]["q"]


def test_transfer_q_is_corrected_over_other_tasks_only() -> None:
    from scipy import stats

    runners = {name: Additive(weights(**{f"h{i}": 1.0, f"h{i + 1}": 1.0}), seed=i) for i, name in enumerate("abc")}
    circuits = {name: circuit(i, i + 1) for i, name in enumerate("abc")}
    table = transfer_table(runners, circuits, n_random=30)
    others = [cell for cell in table.cells if cell.circuit != cell.task]
    assert len(table.cells) == 9 and len(others) == 6
    np.testing.assert_allclose([cell.q for cell in others], stats.false_discovery_control([cell.p for cell in others]))


def test_transfer_p_is_calibrated_for_circuits_that_say_nothing() -> None:
    """The circuit of task a is itself drawn at random: its p-value on task b is at most u with probability u at most."""
    rng, found = np.random.default_rng(5), []
    for trial in range(150):
        runners = {"a": Additive(ONE, seed=trial, pairs=6), "b": Additive(rng.normal(0.3, 1, N), seed=trial + 1000, pairs=6)}
        drawn = circuit(*rng.permutation(N)[:4].tolist())
        table = transfer_table(runners, {"a": drawn, "b": circuit(0, 1, 2, 3)}, n_random=19, seed=trial)
        found.append(table.cell("a", "b").p if "b" in table.tasks and "a" in table.tasks else 1.0)
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(found) <= level) <= level + 0.06
    assert np.mean(np.array(found) <= 0.5) > 0.3


def test_transfer_intervals_cover() -> None:
    """95 % intervals of the share that a carries on b, over fresh pairs."""
    hits = 0
    for trial in range(200):
        runners = {"a": Additive(ONE, 0.5, 30, trial), "b": Additive(TWO, 0.5, 30, trial + 10_000)}
        found = transfer_table(runners, {"a": A, "b": B}, n_random=1, seed=trial).cell("a", "b").faithfulness
        hits += found["low"] <= 0.25 <= found["high"]
    assert 0.90 <= hits / 200 <= 0.99


def test_a_task_without_a_gap_is_left_out_with_the_reason() -> None:
    runners = both() | {"c": Additive(np.zeros(N), 0.0)}
    circuits = {"a": A, "b": B, "c": circuit(9)}
    table = transfer_table(runners, circuits, n_random=5)
    assert table.tasks == ("a", "b") and "nothing for a circuit to recover" in table.left_out["c"]
    assert {cell.circuit for cell in table.cells} == {"a", "b"}
    again = dissociation_table(runners, circuits, n_permutations=99)
    assert [(row.task_a, row.task_b) for row in again.rows] == [("a", "b")] and "c" in again.left_out


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(BadParameterError, match="at least two tasks"):
        transfer_table(both(), {"a": A})
    with pytest.raises(BadParameterError, match="holds m1"):
        transfer_table(both(), {"a": A, "b": Circuit(frozenset({Mlp(1), Embed()}), SHAPE)})
    with pytest.raises(IncompatibleError):
        transfer_table(both(), {"a": A, "b": Circuit(frozenset({Head(0, 0)}), Universe(4, 4, 1))})
    with pytest.raises(UnknownNameError, match="task with runs"):
        transfer_table(both(), {"a": A, "bb": B})
    with pytest.raises(BadParameterError, match="alpha"):
        dissociation_table(both(), {"a": A, "b": B}, alpha=1.5)
    with pytest.raises(BadParameterError, match="smallest p"):
        sensitivity_card({"zero": both(), "mean": both()}, {"a": A}, n_random=10)


# Dissociation


def test_a_planted_double_dissociation_is_found() -> None:
    row = dissociation_table(both(), {"a": A, "b": B}).row("b", "a")
    assert row.verdict == "double" and row.q < 0.01
    assert row.knock_out("only_a", "a").heads == ["a0.h0", "a0.h1"]
    want = {
        ("only_a", "a"): 0.5,
        ("only_b", "a"): 0,
        ("shared", "a"): 0.5,
        ("only_a", "b"): 0,
        ("only_b", "b"): 0.75,
        ("shared", "b"): 0.25,
    }
    for (which, task), share in want.items():
        assert row.knock_out(which, task).effect["mean"] == pytest.approx(share, abs=0.06), (which, task)
    assert row.contrast_a["mean"] == pytest.approx(0.5, abs=0.06) and row.contrast_b["mean"] == pytest.approx(0.75, abs=0.06)
    assert row.interaction["mean"] == pytest.approx(row.contrast_a["mean"] + row.contrast_b["mean"])
    assert row.knock_out("only_b", "b").raw["mean"] == pytest.approx(3, abs=0.2), "in metric units"


def test_heads_that_matter_for_both_tasks_do_not_dissociate() -> None:
    general = weights(h0=1, h1=1, h3=1, h4=1)
    runners = {"a": Additive(general, seed=1), "b": Additive(general * 2, seed=2)}
    assert dissociation_table(runners, {"a": A, "b": B}).rows[0].verdict == "none"
    runners["b"] = Additive(TWO, seed=2)
    row = dissociation_table(runners, {"a": A, "b": B}).rows[0]
    assert row.verdict == "single" and row.p_b < 0.05 < row.p_a and row.p == row.p_a
    assert row.p_interaction < 0.05, "an interaction alone is no double dissociation"


def test_equal_circuits_cannot_dissociate() -> None:
    row = dissociation_table(both(), {"a": A, "b": A}).rows[0]
    assert row.verdict == "same" and row.p == 1 and row.knock_out("only_a", "b").effect["mean"] == 0


def test_a_gap_that_may_be_zero_gives_no_verdict() -> None:
    runners = both() | {"b": Additive(TWO * 0.01, 0.5, seed=3)}
    assert dissociation_table(runners, {"a": A, "b": B}).rows[0].verdict == "no gap"
    gap = transfer_table(runners, {"a": A, "b": B}, n_random=2).to_dict(pairs=False)["ends"]["b"]["gap"]
    assert gap["low"] < 0 < gap["high"]


def test_the_dissociation_document() -> None:
    table = dissociation_table(both(pairs=5), {"a": A, "b": B}, n_permutations=50)
    said = table.to_dict()
    assert set(said["per_pair"]["a"]["a~b"]) == set(SETS) and len(said["per_pair"]["a"]["a~b"]["shared"]) == 5
    assert said["pairs"][0]["interaction"].keys() == {"mean", "low", "high"}


def test_false_double_dissociations_are_rare() -> None:
    """On b own and other heads matter alike: each of both p-values, and their maximum, keeps the level."""
    flat = weights(h0=1, h1=1, h3=1, h4=1)
    found = []
    for trial in range(200):
        runners = {"a": Additive(ONE, 0.5, 16, trial), "b": Additive(flat, 0.5, 16, trial + 5000)}
        row = dissociation_table(runners, {"a": A, "b": B}, n_permutations=199, seed=trial).rows[0]
        found.append((row.p_b, row.p))
    for p_values in np.array(found).T:
        assert np.mean(p_values <= 0.05) <= 0.095
    assert 0.3 < np.mean(np.array(found)[:, 0] <= 0.5) < 0.7


def test_sign_flips_are_enumerated_where_few() -> None:
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 1 / 8
    assert sign_flip_p(np.array([1.0, 2.0, -3.5])) == 5 / 8
    assert sign_flip_p(np.array([0.3])) == 0.5
    with pytest.raises(BadParameterError, match="without pairs"):
        sign_flip_p(np.array([]))


# Sensitivity


def test_a_verdict_that_depends_on_the_ablation_flips() -> None:
    honest = both(noise=0.02)
    spread = {"a": Additive(np.full(N, 0.2), 0.02), "b": Additive(TWO, 0.02, seed=2)}
    none = {"a": Additive(np.zeros(N), 0.0), "b": Additive(TWO, 0.02, seed=2)}
    card = sensitivity_card({"resample": honest, "zero": spread}, {"a": A, "b": B})
    assert card.verdicts == {"a": "flips", "b": "stable"}
    assert [card.row("a", one).recovery for one in card.ablations] == ["recovers", "fails"]
    assert card.row("a", "resample").p == 1 / 41 and card.row("a", "resample").beats_chance
    assert card.values["a", "zero"].shape == (43, 24)
    card = sensitivity_card({"resample": honest, "mean": none}, {"a": A, "b": B})
    assert card.row("a", "mean").recovery == "no gap" and card.row("a", "mean").faithfulness is None
    assert card.verdicts == {"a": "unclear", "b": "stable"}
    assert card.to_dict()["verdicts"]["a"] == "unclear"


def test_results_come_back_from_plain_data() -> None:
    import msgspec

    from circuitlab.comparison.dissociation import DissociationTable
    from circuitlab.comparison.sensitivity import SensitivityCard
    from circuitlab.comparison.transfer import TransferTable

    circuits = {"a": A, "b": B}
    table, knocked = transfer_table(both(pairs=1), circuits, n_random=3), dissociation_table(both(), circuits, n_permutations=20)
    card = sensitivity_card({"resample": both(), "zero": both(noise=0.3)}, circuits)
    for one, kind in ((table, TransferTable), (knocked, DissociationTable), (card, SensitivityCard)):
        stored = msgspec.json.decode(msgspec.json.encode(one.to_dict()))  # NaN becomes null
        again = kind.from_dict(stored)
        assert msgspec.json.decode(msgspec.json.encode(again.to_dict())) == stored
    assert np.isnan(TransferTable.from_dict(msgspec.json.decode(msgspec.json.encode(table.to_dict()))).cell("a", "b").loss["low"])
    with pytest.raises(BadParameterError, match="without its values by pair"):
        TransferTable.from_dict(table.to_dict(pairs=False))
