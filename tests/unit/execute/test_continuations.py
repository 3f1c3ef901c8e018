"""Answers after prompts that were read before give what whole runs give, under edits that begin at the prompt's last token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.execute.continuations import Begun, Continuation, likelihoods
from circuitlab.model.interventions import Add, KeepKeys, Scale
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model

ROWS = [Continuation((3, 5, 7, 9, 1, 4), 2, (3, 6)), Continuation((8, 2, 2, 6, 1, 3, 7), 3, (5, 7))]
ANSWERING = ("last", "generated")


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_after_read_prompts_are_those_of_whole_runs(family: str) -> None:
    model = shared_tiny_model(family)
    groups = [f"a{layer}.kv{head}" for layer in range(3) for head in range(model.spec.n_kv_heads)]
    edits = [KeepKeys(groups, window=2, sinks=1, positions=ANSWERING), Scale("m1", 0.5, positions="generated")]
    begun = Begun.of(model, ROWS)
    other = model.edited(Scale("m0", 0.5))
    np.testing.assert_allclose(
        Begun.of(other, ROWS).likelihoods(other.edited(edits[0])).logprob, likelihoods(other.edited(edits[0]), ROWS).logprob, atol=1e-4
    )
    for edited in (model, *(model.edited(edit) for edit in edits)):
        ours, whole = begun.likelihoods(edited), likelihoods(edited, ROWS)
        np.testing.assert_allclose(ours.logprob, whole.logprob, atol=1e-4)
        np.testing.assert_array_equal(ours.top, whole.top)
    changed = begun.likelihoods(model.edited(edits[0])).logprob - begun.likelihoods(model).logprob
    assert np.abs(changed).min() > 1e-6


def test_edits_inside_the_prompt_and_scored_prompts_are_refused() -> None:
    model = shared_tiny_model("llama")
    begun = Begun.of(model, ROWS)
    for edit in (Scale("m1", 0.5), KeepKeys("a0.kv0", positions=(0, "generated")), Add("m0", torch.tensor(1.0), positions="prompt")):
        with pytest.raises(BadParameterError, match="read without it"):
            begun.likelihoods(model.edited(edit))
    with pytest.raises(BadParameterError, match="stands in the prompt"):
        Begun.of(model, [Continuation.passage((3, 4, 5))])


def test_gradients_flow_to_the_values_of_edits() -> None:
    model, gate = shared_tiny_model("llama"), torch.nn.Parameter(torch.tensor([0.5]))
    begun = Begun.of(model, ROWS)
    with torch.enable_grad():
        begun.final(model.edited(KeepKeys("a0.kv0", gate=gate, positions=ANSWERING)), 0).square().sum().backward()
    assert gate.grad is not None and float(gate.grad.abs()) > 0
