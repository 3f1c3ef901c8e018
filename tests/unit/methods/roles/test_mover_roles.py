"""Roles by path patching: the planted mover, negative mover and inhibition head earn theirs alone, and a model without the task none."""

from __future__ import annotations

import numpy as np
import pytest

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.methods.path_patching import PathPatching
from circuitlab.methods.roles.movers import Mover, NegativeMover, SInhibition
from circuitlab.model.toy import build_planted
from circuitlab.testing.tiny import shared_tiny_model, tiny_batch

ROLES = {Mover: (2, 0), NegativeMover: (2, 1), SInhibition: (1, 2)}


@pytest.mark.parametrize("form", ["gqa", "mha"])
@pytest.mark.parametrize("role", ROLES)
def test_planted_heads_earn_their_roles_alone(form, role) -> None:
    planted = build_planted(f"names-{form}")
    scores = role(batch=planted.batch(12))(planted.model)
    assert np.argwhere(scores.earned()).tolist() == [list(ROLES[role])]
    assert np.unravel_index(scores.value.argmax(), scores.value.shape) == ROLES[role]
    assert (scores.reference == 0).all() and scores.n_samples == 12


@pytest.mark.parametrize(("role", "receivers", "sign"), [(Mover, "logits", 1), (NegativeMover, "logits", -1), (SInhibition, "a2.h0<q>", 1)])
def test_values_are_those_of_path_patching_as_shares_of_the_gap(role, receivers, sign) -> None:
    planted = build_planted("names-gqa")
    batch = planted.batch(6)
    patched = cl.score(planted.model, batch, PathPatching("noising", ("heads",), (receivers,), positions=("END",)))
    expected = sign * patched.values("heads")[:, 0] / patched.dataset["total"].values.mean()
    np.testing.assert_allclose(role(batch=batch)(planted.model).values, expected, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_weights_do_no_task_and_are_refused(family, seed) -> None:
    model = shared_tiny_model(family)
    for role in ROLES:
        with pytest.raises(ModelError, match=f"tiny-{family} does not do the task of the given pairs"):
            role(batch=tiny_batch(model, 16, seed=seed))(model)


def test_a_task_without_movers_has_nothing_to_steer() -> None:
    planted = build_planted("names-mha")
    role = SInhibition(batch=planted.batch(8))
    assert role(planted.model).values[:, 2].any() == np.False_, "no head of the movers' own layer reaches their queries"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mover, "threshold", 99.0)
        with pytest.raises(ModelError, match="No head of names-mha earns the role of a mover"):
            role(planted.model)


def test_what_cannot_be_measured_is_refused() -> None:
    for role, name in ((Mover, "mover"), (NegativeMover, "negative_mover"), (SInhibition, "s_inhibition")):
        with pytest.raises(ModelError, match=f"{name} cannot run on this model: names-mha has no tokenizer"):
            role()(build_planted("names-mha").model)
    with pytest.raises(BadParameterError, match="1 pair has no interval"):
        Mover(n=1)
    with pytest.raises(BadParameterError, match="movers=0"):
        SInhibition(movers=0)


def test_they_are_measured_where_they_are_named() -> None:
    planted = build_planted("names-mha")
    assert not {"mover", "negative_mover", "s_inhibition"} & set(cl.roles(planted.model).refused)
    table = cl.roles(planted.model, [role(batch=planted.batch(8)) for role in ROLES])
    assert [table.earned_by(head) for head in ("a2.h0", "a2.h1", "a1.h2")] == [["mover"], ["negative_mover"], ["s_inhibition"]]
