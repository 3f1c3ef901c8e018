"""Activation patching equals independent hooks on Hugging Face models, and TransformerLens' own sweep on the real model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tolerances import REAL_FLOAT32, TINY_FLOAT32

from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.transformer_lens import to_bridge
from circuitlab.testing.tiny import FAMILIES, tiny_batch, tiny_hf
from reference.patching import flat_z, patched_logits

METRIC = LogitDiff()


def assert_parity(got: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Fail unless two arrays of effects agree, and unless there are effects to compare."""
    assert np.abs(expected).max() > 20 * tolerance, "the reference holds no effect worth comparing"
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def slow_effects(family: str, batch: ContrastBatch, direction: str) -> np.ndarray:
    """(pair, layer, head) effects from one forward pass per pair and head, unpadded."""
    hf = tiny_hf(family)
    layers, heads = hf.config.num_hidden_layers, hf.config.num_attention_heads
    out = np.zeros((batch.n_pairs, layers, heads))
    for i in range(batch.n_pairs):
        one = batch.select([i])
        edited, source = (one.corrupt, one.clean) if direction == "denoising" else (one.clean, one.corrupt)
        z, last = flat_z(hf, source), int(one.end[0])
        with torch.no_grad():
            base = METRIC(hf(edited).logits[:, last], one).item()
        for layer, head in np.ndindex(layers, heads):
            logits = patched_logits(hf, edited, z, layer, head, heads)
            effect = METRIC(logits[:, last], one).item() - base
            out[i, layer, head] = effect if direction == "denoising" else -effect
    return out


@pytest.mark.some(family=1, direction=3)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("family", FAMILIES)
def test_heads_equal_plain_hooks(family: str, direction: str) -> None:
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=3, unequal=True)
    scores = ActivationPatching(direction=direction, parts=("heads",), pairs_per_pass=2)(model, batch, METRIC)
    assert_parity(scores.values("heads"), slow_effects(family, batch, direction), TINY_FLOAT32)


def test_the_parity_check_can_fail() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=3)
    expected = slow_effects("llama", batch, "denoising")
    wrong = ActivationPatching(direction="noising", parts=("heads",))(model, batch, METRIC).values("heads")
    with pytest.raises(AssertionError):
        assert_parity(wrong, expected, TINY_FLOAT32)
    with pytest.raises(AssertionError, match="no effect"):
        assert_parity(expected * 0, expected * 0, TINY_FLOAT32)


@pytest.mark.real_model
@pytest.mark.parametrize("layers", [(15,), pytest.param((4, 27), marks=pytest.mark.every)], ids=str)
def test_heads_equal_transformer_lens_on_smollm2(smollm2, layers) -> None:
    from transformer_lens import patching

    bridge = to_bridge(smollm2.root)

    from circuitlab.model.prepare import prepare_batch

    batch = prepare_batch(smollm2, "ioi", 2, seed=3)
    batch = batch.select([0])
    heads = range(smollm2.spec.n_heads)
    _, cache = bridge.run_with_cache(batch.clean)
    wanted = pd.DataFrame([(layer, head) for layer in layers for head in heads], columns=["layer", "head"])
    sweep = patching.get_act_patch_attn_head_out_all_pos
    found = patching.generic_activation_patch(
        bridge,
        batch.corrupt,
        cache,
        lambda logits: METRIC(logits[:, -1], batch),
        patch_setter=sweep.keywords["patch_setter"],
        activation_name=sweep.keywords["activation_name"],
        index_df=wanted,
        reduce="none",
    )
    scores = ActivationPatching(parts=("heads",))(smollm2, batch, METRIC)
    restored = scores.values("heads")[0, list(layers)] + scores.dataset["corrupt"].values[0]
    expected = np.asarray(found.values.detach()).reshape(len(layers), -1)
    assert np.abs(expected - scores.dataset["corrupt"].values[0]).max() > 0.05
    np.testing.assert_allclose(restored, expected, rtol=0, atol=REAL_FLOAT32)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(restored[:, ::-1], expected, rtol=0, atol=REAL_FLOAT32)
