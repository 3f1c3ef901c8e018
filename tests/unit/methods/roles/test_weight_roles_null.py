"""Chance of roles from weights alone: random models earn nothing, and permutations and rotations give uniform p-values."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, ModelError, TokenizationError, UnknownNameError
from circuitlab.execute.random_frames import random_frames
from circuitlab.methods.roles import get_role, role_classes
from circuitlab.methods.roles.composition import KComposition, QComposition, VComposition
from circuitlab.methods.roles.copying import Copying, CopyingEigenvalues, NegativeCopying
from circuitlab.methods.roles.low_rank import LowRankOV, LowRankQK
from circuitlab.methods.roles.permutation import draws_for, permutation_null, share_of_hits
from circuitlab.methods.roles.relation import NegativeRelation, Relation
from circuitlab.methods.roles.successor import Successor
from circuitlab.methods.roles.token_preference import TokenPreference
from circuitlab.model.interventions import Scale
from circuitlab.testing.tiny import FAMILIES, tiny_model

ORDERS = tuple(tuple(range(start, start + 9)) for start in range(0, 45, 9))
PAIRS = tuple((i, (7 * i + 3) % 48) for i in range(48))
ROLES = (
    Copying(pool="vocabulary", top=2),
    NegativeCopying(pool="vocabulary", top=2),
    CopyingEigenvalues(),
    Successor(orders=ORDERS),
    Relation(pairs=PAIRS, top=2),
    NegativeRelation(pairs=PAIRS, top=2),
    LowRankOV(),
    LowRankQK(),
    QComposition(),
    KComposition(),
    VComposition(),
    TokenPreference(),
)
"""Every role that is read off the weights, with what a model without a tokenizer needs."""

random_model = functools.cache(tiny_model)


def test_every_role_from_weights_is_tested() -> None:
    assert {role.name for role in ROLES} == {name for name, cls in role_classes().items() if cls.kind == "weights"}


@pytest.mark.laws
@pytest.mark.parametrize("family", FAMILIES)
def test_a_random_model_of_every_family_earns_no_role(family) -> None:
    model = random_model(family)
    for role in ROLES:
        scores = role(model)
        assert scores.weights_only and scores.n_samples == 0 and scores.values.shape[0] == 1
        assert int(scores.earned().sum()) == 0, f"{role.name}: {scores.value}"


@pytest.mark.parametrize("role", [role for role in ROLES if not isinstance(role, LowRankOV)], ids=lambda role: role.name)
def test_p_values_of_random_models_are_those_of_chance(role) -> None:
    """About a twentieth of them is at most 0.05: 4 models, 48 heads. Effective ranks are left out, for the models' norms have gains."""
    p = np.concatenate([role(random_model(family)).p_values()[1:].ravel() for family in ("llama", "gpt2", "gemma3", "gpt_neox")])
    assert (p <= 0.05).mean() <= 0.15, p
    assert p.min() < 0.5 < p.max(), "and not all of them are large"


def test_permuted_targets_give_uniform_p_values() -> None:
    random = np.random.default_rng(0)
    hits = random.random((20, 50, 12, 12)) < 0.3
    null = permutation_null(hits, np.repeat([0, 1], 6), 0)
    assert null.shape == (draws_for(1000), 20, 50)
    p = (1 + (null >= share_of_hits(hits)).sum(0)) / (1 + len(null))
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 3 * (level / 1000) ** 0.5
    assert (p <= 0.2).mean() > 0.05, "and not by being large throughout"


def test_targets_move_only_within_their_block() -> None:
    hits = np.zeros((1, 1, 6, 6), dtype=bool)
    hits[0, 0, :3, 3:] = True  # every source of the first block hits every target of the second
    assert permutation_null(hits, np.array([0, 0, 0, 1, 1, 1]), 0).max() == 0
    assert permutation_null(hits, np.zeros(6, dtype=int), 0).max() == 0.5


def test_a_head_that_always_writes_one_target_is_not_told_from_chance() -> None:
    hits = np.zeros((1, 1, 9, 9), dtype=bool)
    hits[..., 4] = True
    assert np.unique(permutation_null(hits, np.zeros(9, dtype=int), 0)).tolist() == [np.float32(1 / 9)] == [share_of_hits(hits)[0, 0]]


@pytest.mark.parametrize(("heads", "draws"), [(8, 999), (270, 5400), (2500, 50_000), (9000, 50_000)])
def test_there_are_enough_draws_for_one_head_to_pass_the_correction(heads, draws) -> None:
    assert draws_for(heads) == draws
    if heads <= 2500:
        assert heads / (1 + draws) <= 0.05


def test_random_frames_are_orthonormal_and_uniform() -> None:
    frames = list(random_frames(12, 5, 3000, 0))
    assert frames[0].draws.start == 0 and frames[-1].draws.stop == 3000
    firsts = torch.cat([some.basis[some.picked[:, 0]] * some.signs[:, :1] for some in frames])
    assert len(firsts) == 3000
    for one in frames:
        columns = one.basis[one.picked] * one.signs[..., None]
        torch.testing.assert_close(columns @ columns.mT, torch.eye(5).expand(len(columns), 5, 5), atol=1e-5, rtol=0)
    assert abs(float(torch.cat([some.signs for some in frames]).mean())) < 4 / 15_000**0.5, "a direction is as often turned round as not"
    assert float(firsts.mean(0).abs().max()) < 4 * (1 / 12 / 3000) ** 0.5
    torch.testing.assert_close(firsts.T @ firsts / 3000, torch.eye(12) / 12, atol=0.02, rtol=0)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_what_weights_cannot_say_is_refused(role) -> None:
    with pytest.raises(ModelError, match=f"{role.name} cannot run on this model: .*is edited"):
        role(random_model("llama").edited(Scale("a1.h1", 0.5)))
    with pytest.raises(ModelError, match=f"{role.name} cannot run on this model"):
        role(random_model("mamba"))


def test_parameters_that_leave_nothing_to_measure_are_refused() -> None:
    model = random_model("llama")
    with pytest.raises(BadParameterError, match="top=0"):
        Copying(top=0)
    with pytest.raises(BadParameterError, match="top=48, and tiny-llama has 48 tokens"):
        Copying(pool="vocabulary", top=48)(model)
    with pytest.raises(BadParameterError, match="Token id 48 is outside"):
        Copying(words=(1, 2, 3, 4, 48))(model)
    with pytest.raises(TokenizationError, match="has no tokenizer"):
        Copying()(model)
    with pytest.raises(TokenizationError, match="4 of 4 words"):
        TokenPreference(words=(1, 2, 3, 4))(model)
    with pytest.raises(TokenizationError, match="7 of 7 pairs"):
        Relation(pairs=PAIRS[:7])(model)
    with pytest.raises(BadParameterError, match="pairs of two words"):
        Relation(pairs=((1, 2, 3),))
    with pytest.raises(UnknownNameError, match="names"):
        Copying(pool="name")(model)
    with pytest.raises(UnknownNameError, match="days"):
        Successor(tasks="day")(model)


def test_roles_are_built_by_name() -> None:
    assert get_role("successor", {"tasks": ["days", "months"]}) == Successor(tasks=("days", "months"))
    assert get_role("relation", {"relation": "country_language"}).relation == "country_language"
