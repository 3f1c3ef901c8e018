"""The scoreboard is a gate: methods find planted circuits wherever they can, and every exception has a reason that still holds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head, Mlp
from circuitlab.methods import list_methods
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.path_patching import PathPatching
from circuitlab.metrics import LogitDiff
from circuitlab.model.toy import build_planted, planted_names
from circuitlab.scores.head_scores import HeadScores
from circuitlab.workflows.backups import BackupFinder
from circuitlab.workflows.planted import (
    FLOORS,
    MEASURES,
    REASONS,
    auroc,
    average_precision,
    grade,
    precision_at_k,
    scoreboard,
    sign_accuracy,
    standings,
    why_invisible,
)
from circuitlab.workflows.planted.paths import strongest_paths

METRIC = LogitDiff()
SEEDS = 2
SLACK = 0.05
EXACT = {"activation_patching", "path_patching"}


DEAR = {"code_overlap": ("blocker-mha", "copy-gqa")}
"""Methods that train autoencoders are graded on a circuit that they can see and on one that they cannot, on all with ``--every``."""


@pytest.fixture(scope="module")
def asked(request) -> dict[str, tuple[str, ...]]:
    """On which planted models each method is graded."""
    few = {} if request.config.getoption("--every") else DEAR
    return {method: few.get(method, tuple(planted_names())) for method in list_methods()}


@pytest.fixture(scope="module")
def board(asked):
    whole = [method for method, models in asked.items() if len(models) == len(planted_names())]
    parts = [scoreboard([method], models, seeds=SEEDS) for method, models in asked.items() if method not in whole]
    return [*scoreboard(whole, seeds=SEEDS), *itertools.chain(*parts)]


# The statistics.


def by_pairs(scores, truth) -> float:
    """AUROC by counting."""
    pairs = list(itertools.product(scores[truth], scores[~truth]))
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([4, 3, 2, 1], [1, 1, 0, 0], 1.0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 0.0),
        ([1, 1, 1, 1], [1, 0, 0, 1], 0.5),
        ([3, 1, 2, 0], [1, 0, 0, 1], 0.5),
        ([2, 1, 1, 0], [1, 1, 0, 0], 0.875),
    ],
)
def test_auroc_of_known_cases(scores, truth, expected) -> None:
    scores, truth = np.array(scores, float), np.array(truth, bool)
    assert auroc(scores, truth) == pytest.approx(expected) == by_pairs(scores, truth)


def test_auroc_equals_counting_with_ties_and_turns_with_the_sign() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores, truth = rng.integers(0, 4, 12).astype(float), np.array([True, *(rng.random(10) < 0.4), False])
        assert auroc(scores, truth) == pytest.approx(by_pairs(scores, truth))
        assert auroc(-scores, truth) == pytest.approx(1 - auroc(scores, truth))
        assert auroc(scores, truth) != pytest.approx(auroc(scores, ~truth)) or auroc(scores, truth) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scores", "truth", "precision", "first"),
    [
        ([4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2, 0.5),
        ([4, 3, 2, 1], [1, 1, 0, 0], 1.0, 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], (1 / 3 + 2 / 4) / 2, 0.0),
        ([1, 1, 1, 1], [1, 0, 0, 0], 0.25, 0.25),
        ([2, 1, 1, 0], [1, 1, 0, 0], 0.5 + 0.5 * 2 / 3, 0.75),
    ],
)
def test_precision_of_known_cases(scores, truth, precision, first) -> None:
    scores, truth = np.array(scores, float), np.array(truth, bool)
    assert average_precision(scores, truth) == pytest.approx(precision)
    assert precision_at_k(scores, truth) == pytest.approx(first)


def test_precision_at_a_given_k() -> None:
    scores, truth = np.array([4.0, 3.0, 2.0]), np.array([True, False, True])
    assert [precision_at_k(scores, truth, k) for k in (1, 2, 3)] == pytest.approx([1.0, 0.5, 2 / 3])
    with pytest.raises(BadParameterError, match="k=4"):
        precision_at_k(scores, truth, 4)


def test_sign_accuracy_counts_zero_as_wrong_and_skips_the_unknown() -> None:
    assert sign_accuracy(np.array([2.0, -1.0, 0.0, 5.0]), np.array([1, -1, 1, 0])) == pytest.approx(2 / 3)
    assert sign_accuracy(np.array([-2.0, 1.0]), np.array([1, -1])) == 0


@pytest.mark.parametrize(
    ("scores", "truth", "said"),
    [
        ([1, 2], [1], "do not fit"),
        ([1, float("nan")], [1, 0], "not finite"),
        ([1, 2], [0, 0], "No node is true"),
        ([1, 2], [1, 1], "Every node is true"),
    ],
)
def test_what_cannot_be_graded_is_refused(scores, truth, said) -> None:
    with pytest.raises(BadParameterError, match=said):
        auroc(np.array(scores, float), np.array(truth))


# The gate.


def test_everything_is_on_the_board(board, asked) -> None:
    assert {(one.model, one.method) for one in board} == {(model, method) for method, models in asked.items() for model in models}
    assert sum(len(models) == len(planted_names()) for models in asked.values()) >= len(list_methods()) - 1
    for one in board:
        assert one.visible is (one.reason == "")
        if one.method == "copying_score":
            assert np.isnan(one.auroc["low"]) and np.isnan(one.auroc["high"]), "no prompt was drawn, so none could vary"
        else:
            assert one.auroc["low"] <= one.auroc["mean"] <= one.auroc["high"]


def test_methods_find_what_they_can_see(board) -> None:
    low = [f"{one.method} on {one.model}: {one.auroc['mean']:.3f}" for one in board if one.visible and one.auroc["mean"] < 0.99]
    assert low == []
    wrong = [f"{one.method} on {one.model}" for one in board if one.visible and one.sign_accuracy["mean"] < 1]
    assert wrong == []


def test_no_method_falls_below_its_floors(board) -> None:
    assert {one.method: one.below for one in standings(board) if one.below} == {}


def test_every_method_has_floors_close_below_what_it_reaches(board, asked) -> None:
    """A method that has improved by more than the slack must have its floor raised."""
    assert set(FLOORS) == set(list_methods()) - {"random"}
    for one in standings(board):
        whole = len(asked[one.method]) == len(planted_names())  # a part of the models has no mean to be held against
        for reached, floor in ((one.least, one.floor_least), *([(one.mean, one.floor_mean)] if whole else [])):
            low = {name: (reached[name], floor[name]) for name in MEASURES if floor and reached and reached[name] > floor[name] + SLACK}
            assert low == {}, one.method


def test_standings_tell_what_is_below(board) -> None:
    sound = [one for one in board if one.method == "activation_patching"]
    (good,) = standings(sound)
    assert (good.below, good.least["auroc"], good.n_visible) == ((), 1.0, len(planted_names()) - 2)
    worse = [replace(one, auroc={"mean": 0.9, "low": 0.9, "high": 0.9}) if one.model == "copy-gqa" else one for one in sound]
    (bad,) = standings(worse)
    assert bad.below == ("least auroc",)
    assert bad.mean["auroc"] == pytest.approx(good.mean["auroc"] - 0.1 / len(sound))
    flipped = [replace(one, sign_accuracy={"mean": 0.0, "low": 0.0, "high": 0.0}) for one in sound]
    assert standings(flipped)[0].below == ("least sign_accuracy", "mean sign_accuracy")
    assert standings(flipped[:3])[0].below == ("least sign_accuracy",), "a part of the models has no mean to be held against"
    assert standings([one for one in board if one.method == "random"])[0].floor_mean == {}


def test_exact_patching_sees_all_but_backups(board) -> None:
    unseen = {one.model for one in board if one.method in EXACT and not one.visible}
    assert unseen == {"backup-gqa", "backup-mha"}


def test_every_reason_is_still_needed(board) -> None:
    """A method that has come to find a circuit, with every sign, must lose its excuse."""
    found = [one for one in board if one.auroc["mean"] >= 0.99 and one.sign_accuracy["mean"] == 1]
    needless = [f"{one.method} on {one.model}" for one in found if not one.visible]
    assert needless == []
    methods = set(list_methods())
    every = set(itertools.product(methods, planted_names()))
    used = {(method, model.rpartition("-")[0]) for method, model in every} | every
    assert all(key[0] in methods and (key[1] == "*" or key in used) for key in REASONS)
    assert all(reason.endswith(".") and reason.count(".") == 1 for reason in REASONS.values())


def test_random_is_near_one_half() -> None:
    found = np.array([one.auroc["mean"] for one in scoreboard(["random"], seeds=12, pairs=2)])
    half = 2 * found.std(ddof=1) / len(found) ** 0.5
    assert abs(found.mean() - 0.5) < half
    assert half < 0.1


@pytest.mark.parametrize("form", ["gqa", "mha"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_no_swap_of_one_node_sees_a_backup_pair(form, direction) -> None:
    planted = build_planted(f"backup-{form}")
    batch = planted.batch(8)
    for method in (ActivationPatching(direction=direction), PathPatching(direction=direction)):
        scores = method(planted.model, batch, METRIC)
        gap = float(scores.dataset["total"].values.mean())
        for head in (Head(0, 0), Head(0, 2)):
            assert abs(float(scores.mean()[head.layer, head.head])) < 0.03 * gap
    assert planted.nodes >= {Head(0, 0), Head(0, 2), Head(0, 3), Mlp(1)}
    assert why_invisible("activation_patching", planted) == planted.reason


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_the_backup_finder_sees_the_pair(form) -> None:
    planted = build_planted(f"backup-{form}")
    found = BackupFinder()(planted.model, planted.batch(8), METRIC, None)
    assert [group.heads for group in found.groups] == [(Head(0, 0), Head(0, 2))]
    assert BackupFinder()(build_planted(f"copy-{form}").model, build_planted(f"copy-{form}").batch(8), METRIC, None).groups == ()


def test_paths_are_followed_back_from_the_logits() -> None:
    planted = build_planted("names-gqa")
    batch = planted.batch(8)
    direct = PathPatching()(planted.model, batch, METRIC)
    gap = float(direct.dataset["total"].values.mean())
    assert abs(float(direct.mean()[0, 0])) < 0.02 * gap, "the duplicate-token head has no direct effect"
    found = strongest_paths(PathPatching(), planted.model, batch, METRIC)
    assert {node for node, mean in found.items() if abs(mean) > 0.2 * gap} == planted.nodes
    assert found[Head(2, 1)] < 0 < found[Head(0, 0)]


@dataclass(frozen=True)
class _Faulty(ActivationPatching):
    """Activation patching with a fault."""

    fault: str = "none"

    def __call__(self, model, batch, metric) -> HeadScores:
        scores = super().__call__(model, batch, metric)
        data = scores.dataset.copy(deep=True)
        for part in ("heads", "mlps"):
            data[part].values[:] *= {"none": 1, "sign": -1, "dead": 0}[self.fault]
        return replace(scores, dataset=data)


def test_grades_fall_with_a_faulty_method() -> None:
    planted = build_planted("names-gqa")
    sound, sign, dead = (grade(_Faulty(fault=fault), planted, seeds=2, pairs=3) for fault in ("none", "sign", "dead"))
    assert (sound.auroc["mean"], sound.average_precision["mean"], sound.sign_accuracy["mean"]) == (1, 1, 1)
    assert (sign.auroc["mean"], sign.sign_accuracy["mean"]) == (1, 0)
    assert (dead.auroc["mean"], dead.sign_accuracy["mean"]) == (0.5, 0)
    heads = grade(_Faulty(parts=("heads", "mlps"), fault="none"), build_planted("successor-mha"), seeds=1, pairs=2)
    assert np.isnan(heads.auroc["low"])
    assert heads.auroc["mean"] == 1


def test_misuse_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'copy-gqa'"):
        scoreboard(["random"], ["copy-gqaa"])
    with pytest.raises(UnknownNameError, match="Did you mean 'random'"):
        scoreboard(["rndom"])
    with pytest.raises(BadParameterError, match="seeds=0"):
        scoreboard(seeds=0)
