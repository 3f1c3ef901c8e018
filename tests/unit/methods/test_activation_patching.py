"""Patching at other sites, marks and directions; misuse is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from circuitlab.core.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.core.progress import report_progress
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.testing.tiny import tiny_batch, tiny_hf

METRIC = LogitDiff()
SITES = ("heads", "attns", "mlps", "resid_pre", "resid_mid", "resid_post")


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_patching_the_whole_stream_restores_the_whole_gap(family: str, direction: str) -> None:
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=3, unequal=True)
    scores = ActivationPatching(direction=direction, parts=SITES)(model, batch, METRIC)
    gap = scores.dataset["total"].values
    assert np.abs(gap).max() > 0.01
    for part in ("resid_pre", "resid_mid", "resid_post"):
        np.testing.assert_allclose(scores.values(part)[:, -1 if part == "resid_post" else 0], gap, atol=1e-4)
    assert scores.values("attns").shape == scores.values("mlps").shape == (3, model.spec.n_layers)


def test_a_single_head_layer_equals_its_attention_output_through_the_sum() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=2)
    by_mark = ActivationPatching(parts=("resid_pre",), positions=("END",))(model, batch, METRIC)
    assert by_mark.marks == ("END",)
    assert by_mark.values("resid_pre").shape == (2, 1, model.spec.n_layers)
    last = ActivationPatching(parts=("resid_post",), positions=("END",))(model, batch, METRIC)
    np.testing.assert_allclose(last.values("resid_post")[:, 0, -1], last.dataset["total"].values, atol=1e-4)


def test_marks_that_hold_the_only_change_restore_everything_before_attention() -> None:
    model = load_model(tiny_hf("qwen3"))
    batch = tiny_batch(model, n=3)
    first = ActivationPatching(parts=("resid_pre",), positions=("CHANGE",))(model, batch, METRIC)
    np.testing.assert_allclose(first.values("resid_pre")[:, 0, 0], first.dataset["total"].values, atol=1e-4)


def test_chunking_changes_cost_and_not_results() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=4, unequal=True)
    small, large = (ActivationPatching(pairs_per_pass=t)(model, batch, METRIC) for t in (1, 64))
    np.testing.assert_allclose(small.values("heads"), large.values("heads"), atol=1e-5)
    assert small.provenance.run_id() == large.provenance.run_id()


def test_progress_reaches_the_end() -> None:
    model = load_model(tiny_hf("llama"))
    seen: list[tuple[int, int]] = []
    with report_progress(lambda done, total: seen.append((done, total))):
        ActivationPatching(pairs_per_pass=2)(model, tiny_batch(model), METRIC)
    assert seen[-1][0] == seen[-1][1] > 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_misuse_is_refused() -> None:
    model = load_model(tiny_hf("gpt_neox"))
    batch = tiny_batch(model)
    with pytest.raises(UnknownNameError, match="Did you mean 'heads'"):
        ActivationPatching(parts=("head",))
    with pytest.raises(UnknownNameError, match="denoising"):
        ActivationPatching(direction="denoise")  # type: ignore[arg-type]
    with pytest.raises(BadParameterError, match="cannot be patched"):
        ActivationPatching(positions=("all", "END"))
    with pytest.raises(UnknownNameError, match="mark 'S3'"):
        ActivationPatching(positions=("S3",))(model, batch, METRIC)
    with pytest.raises(ModelError, match="resid_mid"):
        ActivationPatching(parts=("resid_mid",))(model, batch, METRIC)


def test_a_readout_that_is_not_known_leaves_patching_to_hooks() -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 40}
    projected = load_model(OPTForCausalLM(OPTConfig(**shape, max_position_embeddings=64, word_embed_proj_dim=16)))
    prompts = tiny_batch(projected, 2)
    with pytest.warns(UserWarning, match="Falling back to hooks.*reads more than the last layer's stream"):
        found = ActivationPatching()(projected, prompts, LogitDiff())
    expected = ActivationPatching(engine="hooks")(projected, prompts, LogitDiff())
    assert abs(found.values("heads") - expected.values("heads")).max() == 0
