"""Head roles: scores on repeated tokens, attention between marks and copy scores find what was planted."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.methods.roles.attention import attention_between, copy_scores, repeat_scores
from circuitlab.model.sites import Site
from circuitlab.model.toy import build_planted
from circuitlab.testing.tiny import shared_tiny_model, tiny_batch, tiny_model


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_repeat_scores_equal_a_slow_reading(family) -> None:
    import torch

    model = shared_tiny_model(family)
    found = repeat_scores(model, length=5, rows=3, seed=1)
    half = torch.randint(0, model.spec.d_vocab, (3, 5), generator=torch.Generator().manual_seed(1))
    tokens = torch.cat([half, half], 1)
    pattern = model.capture(tokens, [Site.PATTERN])[Site.PATTERN].double().numpy()
    want = {"previous": np.zeros((3, 4)), "duplicate": np.zeros((3, 4)), "induction": np.zeros((3, 4))}
    for layer in range(3):
        for head in range(4):
            for row in range(3):
                one = pattern[row, layer, head]
                want["previous"][layer, head] += np.mean([one[t, t - 1] for t in range(1, 10)]) / 3
                want["duplicate"][layer, head] += np.mean([one[t, t - 5] for t in range(5, 10)]) / 3
                want["induction"][layer, head] += np.mean([one[t, t - 4] for t in range(5, 10)]) / 3
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, atol=1e-6)


def test_attention_of_planted_movers_goes_to_the_answer() -> None:
    planted = build_planted("names-gqa")
    batch = planted.batch(8)
    found = attention_between(planted.model, batch, ("NAME1", "NAME2", "REPEATED"))
    mover = found["NAME1"][:, 2, 0] + found["NAME2"][:, 2, 0]
    assert (mover > 0.9).all()
    assert (found["REPEATED"][:, 1, 2] > 0.9).all(), "inhibition attends to the repeated name"
    assert attention_between(planted.model, batch, ("REPEATED",), "REPEATED")["REPEATED"].shape == (8, 3, 4)
    with pytest.raises(UnknownNameError):
        attention_between(planted.model, batch, ("S9",))


def test_the_planted_copy_head_copies_and_its_rival_suppresses() -> None:
    planted = build_planted("names-mha")
    batch = planted.batch(12)
    found = copy_scores(planted.model, batch, "NAME1")
    assert found["copy"][2, 0] == 1 and found["negative"][2, 1] == 1
    assert found["copy"][2, 1] == 0 and found["negative"][2, 0] == 0
    other = copy_scores(planted.model, batch, "NAME1", batch.clean[:, 0])
    assert other["copy"][2, 0] < 1, "another token is looked for"


def test_nothing_to_repeat_is_refused() -> None:
    with pytest.raises(BadParameterError, match="length=1"):
        repeat_scores(tiny_model("gpt2"), length=1)
    assert tiny_batch(tiny_model("gpt2"), 1).n_pairs == 1
