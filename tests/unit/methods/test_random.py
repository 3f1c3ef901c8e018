"""The random baseline obeys the laws that do not ask for meaning, and breaks those that do."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.methods import get_method
from circuitlab.methods.random import RandomScores
from circuitlab.metrics import KLDivergence, LogitDiff
from circuitlab.testing.method_laws import method_laws
from circuitlab.testing.tiny import tiny_batch, tiny_model

MEANING = ("dead head", "head relabelling", "scale", "planted")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_laws_of_form_hold_and_laws_of_meaning_do_not(family) -> None:
    laws = list(method_laws(RandomScores(), (family,)))
    broken = [law.name for law in laws if not law.ok]
    assert all(name.startswith(MEANING) for name in broken), broken
    assert any(name.startswith("dead head") for name in broken)
    assert {"shape", "pair order", "determinism", "provenance round trip"} <= {law.name.partition(" [")[0] for law in laws if law.ok}


def test_scores_are_standard_normal_and_follow_the_seed() -> None:
    model = tiny_model("llama")
    batch = tiny_batch(model, 60)
    scores = get_method("random")(model, batch, LogitDiff())
    drawn = np.concatenate([scores.values("heads").ravel(), scores.values("mlps").ravel()])
    assert abs(drawn.mean()) < 4 / len(drawn) ** 0.5
    assert drawn.std() == pytest.approx(1.0, abs=0.1)
    other = RandomScores(seed=1)(model, batch, LogitDiff())
    assert abs(np.corrcoef(other.values("heads").ravel(), scores.values("heads").ravel())[0, 1]) < 0.2
    clean = LogitDiff()(model.logits(batch.clean, batch.end), batch)
    np.testing.assert_allclose(scores.dataset["clean"].values, clean.numpy(), atol=1e-5)


def test_padding_does_not_enter() -> None:
    model = tiny_model("llama")
    batch = tiny_batch(model, 3, unequal=True)
    together = RandomScores()(model, batch, LogitDiff())
    alone = RandomScores()(model, batch.select([0]), LogitDiff())
    np.testing.assert_array_equal(alone.values("heads")[0], together.values("heads")[0])
    RandomScores()(model, batch, KLDivergence())
