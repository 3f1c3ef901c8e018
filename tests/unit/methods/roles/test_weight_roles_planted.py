"""Roles from weights alone find the heads that were planted, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.methods.roles.composition import KComposition, QComposition, VComposition
from circuitlab.methods.roles.copying import Copying, CopyingEigenvalues, NegativeCopying
from circuitlab.methods.roles.low_rank import LowRankOV
from circuitlab.methods.roles.relation import Relation
from circuitlab.methods.roles.successor import Successor
from circuitlab.methods.roles.token_preference import TokenPreference
from circuitlab.model.toy import build_planted

NUMBERS = tuple(range(2, 10))
NAMES = tuple(range(2, 8))


def earned(scores) -> list[str]:
    return [str(scores.node(*place)) for place in np.argwhere(scores.earned()).tolist()]


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_the_planted_successor_scores_1_and_no_other_head_is_above_chance(form) -> None:
    role = Successor(orders=((*NUMBERS, NUMBERS[0]),))
    model = build_planted(f"successor-{form}").model
    scores = role(model)
    assert earned(scores) == ["a1.h1"] and scores.value[1, 1] == 1
    others = np.delete(scores.q_values().ravel(), 5)
    assert (others > 0.05).all()
    by_task = role.by_task(model)
    assert by_task.scores["order 0"][1, 1] == by_task.scores["macro"][1, 1] == by_task.scores["pooled"][1, 1] == 1
    assert by_task.chance == {"order 0": 1 / 8, "pooled": 1 / 8} and by_task.pairs == {"order 0": 8, "pooled": 8}


def test_a_list_in_another_order_has_no_successor_head() -> None:
    role = Successor(orders=((2, 7, 4, 9, 6, 3, 8, 5, 2),))
    scores = role(build_planted("successor-gqa").model)
    assert earned(scores) == [] and scores.value[1, 1] == 0


def test_what_the_first_mlp_makes_of_a_token_is_what_the_planted_successor_reads() -> None:
    model = build_planted("successor-gqa").model
    shares = {reads: Successor(orders=((*NUMBERS, NUMBERS[0]),), reads=reads)(model).value[1, 1] for reads in ("stream", "embedding")}
    assert shares == {"stream": 1, "embedding": 0}, "the head reads numbers, which the embedding does not hold"


def test_a_relation_is_found_by_its_pairs() -> None:
    pairs = tuple(zip(NUMBERS, (*NUMBERS[1:], NUMBERS[0]), strict=True))
    scores = Relation(pairs=pairs, top=1)(build_planted("successor-gqa").model)
    assert earned(scores) == ["a1.h1"] and scores.value[1, 1] == 1


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_the_planted_mover_copies_and_the_negative_mover_suppresses(form) -> None:
    model = build_planted(f"names-{form}").model
    copying, negative = (role(words=NAMES, top=1)(model) for role in (Copying, NegativeCopying))
    assert copying.value.argmax() == 8 and copying.value[2, 0] == 1 and copying.value[2, 1] == 0
    assert negative.value.argmax() == 9 and negative.value[2, 1] == 1 and negative.value[2, 0] == 0
    assert "a2.h0" in earned(copying) and earned(negative) == ["a2.h1"]


def test_eigenvalues_of_the_planted_copy_heads_have_their_sign() -> None:
    scores = CopyingEigenvalues()(build_planted("copy-mha").model)
    assert scores.value[1, 1] > 0.99 and scores.value[1, 2] < -0.99
    assert earned(scores) == ["a1.h1"]


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_the_planted_induction_head_composes_with_the_planted_previous_token_head(form) -> None:
    planted = build_planted(f"induction-{form}")
    scores = KComposition()(planted.model)
    kv = 2 // (4 // planted.model.spec.n_kv_heads)
    assert earned(scores) == [f"a1.kv{kv}"]
    assert scores.value[1].argmax() == kv and (scores.value[0] == 0).all(), "the first layer has nothing to compose with"
    for role in (QComposition, VComposition):
        assert earned(role()(planted.model)) == []


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_the_planted_duplicate_token_head_prefers_its_own_token(form) -> None:
    scores = TokenPreference(words=NAMES)(build_planted(f"names-{form}").model)
    assert earned(scores) == ["a0.h0"] and scores.value[0, 0] == 1


def test_heads_that_carry_few_features_are_of_low_rank() -> None:
    scores = LowRankOV()(build_planted("copy-gqa", background=0).model)
    assert earned(scores) == ["a0.h0", "a1.h1", "a1.h2"]
    np.testing.assert_allclose([scores.value[0, 0], scores.value[1, 1]], 2 / 3, atol=0.02, err_msg="8 of 24 dimensions")
    assert scores.value[0, 1] == 0, "a matrix that is 0 has no rank to be low"


@pytest.mark.parametrize(
    "role", [Copying(words=NUMBERS, top=1), Successor(orders=(NUMBERS,)), TokenPreference(words=NUMBERS), KComposition()]
)
def test_a_head_that_writes_nothing_earns_nothing(role) -> None:
    model = build_planted("copy-gqa", background=0.0).model
    scores = role(model)
    assert scores.value[0, 1 if scores.per == "kv_head" else 3] == 0
    assert "a0.h3" not in earned(scores)
