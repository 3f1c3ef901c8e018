"""AttentionInfluence: equal to a slow reading, tops at the planted heads, and random weights earn nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.nodes import Head
from circuitlab.methods.roles.influence import AttentionInfluence
from circuitlab.methods.roles.repeats import repeated_tokens
from circuitlab.model.interventions.pattern import EditPattern
from circuitlab.model.toy import build_planted
from circuitlab.testing.tiny import shared_tiny_model, tiny_model


def rows_of(model, length: int = 8, rows: int = 6) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, repeated_tokens(model, length, 2, rows, seed=0).tokens.tolist()))


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_even_attention_of_either_planted_head_breaks_induction(form) -> None:
    model = build_planted(f"induction-{form}").model
    scores = AttentionInfluence(tokens=rows_of(model))(model)
    assert np.argwhere(scores.earned()).tolist() == [[0, 1], [1, 2]]
    assert min(scores.value[0, 1], scores.value[1, 2]) > 0.1
    others = np.delete(scores.values[:, 1], 2, axis=1).mean(1)
    np.testing.assert_allclose(scores.reference[:, 1, 2], others)


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_losses_equal_a_slow_reading_and_random_weights_earn_nothing(family) -> None:
    model = shared_tiny_model(family)
    tokens = rows_of(model, length=6, rows=8)
    scores = AttentionInfluence(tokens=tokens)(model)

    def loss(one, row) -> float:
        logs = [one.logits(torch.tensor([row]), torch.tensor([at]))[0].double().log_softmax(-1) for at in range(len(row) - 1)]
        return -float(np.mean([float(log[token]) for log, token in zip(logs, row[1:], strict=True)]))

    even = model.edited(EditPattern(Head(1, 2), "uniform"))
    base = loss(model, tokens[3])
    assert scores.values[3, 1, 2] == pytest.approx((loss(even, tokens[3]) - base) / base, abs=1e-6)
    assert scores.value.any() and int(scores.earned().sum()) == 0


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ModelError, match="tiny-llama has no tokenizer"):
        AttentionInfluence()(tiny_model("llama"))
    for params in ({"n": 1}, {"tokens": ((1, 2, 3), (1, 2))}, {"tokens": ((1, 2, 3),)}, {"tokens": ((1,), (2,))}):
        with pytest.raises(BadParameterError, match="cannot be compared"):
            AttentionInfluence(**params)
