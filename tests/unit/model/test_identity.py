"""Identity is everything that changes a logit, and a model notices when it has changed; the caller's own state is left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from circuitlab.errors import ModelError
from circuitlab.methods import get_method
from circuitlab.methods.base import provenance_of
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.testing.tiny import tiny_batch, tiny_hf, tiny_model

METRIC = LogitDiff()
SHAPE = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
RUNS = ["activation_patching", "attribution_patching", "atp_star", "eap", "eap_ig", "relp", "logit_attribution", "path_patching"]


def same_weights(kind, config):
    torch.manual_seed(0)
    return kind(config)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (LlamaForCausalLM, LlamaConfig(**SHAPE), LlamaConfig(**SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 500.0})),
        (LlamaForCausalLM, LlamaConfig(**SHAPE), LlamaConfig(**SHAPE, hidden_act="gelu")),
        (LlamaForCausalLM, LlamaConfig(**SHAPE), LlamaConfig(**SHAPE, rms_norm_eps=1e-2)),
        (MistralForCausalLM, MistralConfig(**SHAPE, sliding_window=4), MistralConfig(**SHAPE, sliding_window=6)),
    ],
    ids=["rope_theta", "hidden_act", "rms_norm_eps", "sliding_window"],
)
def test_the_same_weights_under_another_configuration_are_another_model(kind, one, other) -> None:
    first, second, again = (load_model(same_weights(kind, config)) for config in (one, other, one))
    assert first.spec.weights == second.spec.weights
    assert first.spec.identity() != second.spec.identity()
    assert first.spec.identity() == again.spec.identity()


def test_names_and_tokens_are_no_part_of_the_identity() -> None:
    hf = same_weights(LlamaForCausalLM, LlamaConfig(**SHAPE))
    other = LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=7, pad_token_id=3, use_cache=False, initializer_range=0.5))
    other.load_state_dict(hf.state_dict())
    assert load_model(other, name="another").spec.identity() == load_model(hf).spec.identity()


def in_place(hf) -> None:
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight.mul_(1.5)


def replaced(hf) -> None:
    layer = hf.model.layers[0].self_attn
    layer.o_proj.weight = torch.nn.Parameter(layer.o_proj.weight.detach() * 1.5)


def through_data(hf) -> None:
    hf.model.layers[1].self_attn.v_proj.weight.data[3] += 0.5


def rows_exchanged(hf) -> None:
    weight = hf.model.layers[0].mlp.up_proj.weight
    weight.data[[1, 2]] = weight.data[[2, 1]]


def rotation(hf) -> None:
    hf.model.rotary_emb.inv_freq.mul_(0.5)


@pytest.mark.parametrize("change", [in_place, replaced, through_data, rows_exchanged, rotation])
def test_weights_that_change_after_loading_are_noticed(change) -> None:
    hf, method = tiny_hf("llama"), get_method("logit_attribution")
    model = load_model(hf)
    batch = tiny_batch(model, 2)
    before, scores = provenance_of(method, model, batch, METRIC).run_id(), method(model, batch, METRIC)
    change(hf)
    assert provenance_of(method, model, batch, METRIC).run_id() != before
    fresh = load_model(hf)
    assert model.spec.identity() == fresh.spec.identity()
    after, expected = method(model, batch, METRIC), method(fresh, batch, METRIC)
    np.testing.assert_allclose(after.dataset["heads"], expected.dataset["heads"], atol=1e-6)
    assert not np.allclose(after.dataset["heads"], scores.dataset["heads"])


@pytest.mark.parametrize("family", ["llama_dynamic", "llama_longrope"])
def test_a_run_is_no_change_of_the_model(family) -> None:
    """Rotary tables grow in a run and are put back after it: what is known of the model is not looked for again."""
    model = tiny_model(family)
    known = model.parts, model.decoder
    batch = tiny_batch(model, 2)
    model.logits(batch.clean, batch.end)
    assert (model.parts, model.decoder) == known


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_norms_that_change_after_loading_are_noticed_by_the_decoder(family) -> None:
    hf = tiny_hf(family)
    model = load_model(hf)
    batch = tiny_batch(model, 2)
    get_method("eap")(model, batch, METRIC)
    with torch.no_grad():
        for name, value in hf.named_parameters():
            if "norm" in name or "ln_" in name:
                value.add_(0.3)
    found, expected = (get_method("eap")(one, batch, METRIC) for one in (model, load_model(hf)))
    np.testing.assert_allclose(found.dataset["heads"], expected.dataset["heads"], atol=1e-5)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("mode", ["train", "no_grad", "inference"])
def test_the_callers_modes_change_nothing_and_are_put_back(name, mode) -> None:
    hf = tiny_hf("gpt2")
    for module in hf.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model, method = load_model(hf), get_method(name)
    batch = tiny_batch(model, 2)
    expected = method(model, batch, METRIC)
    if mode == "train":
        hf.train()
        found = method(model, batch, METRIC)
        assert all(module.training for module in hf.modules())
    else:
        with torch.no_grad() if mode == "no_grad" else torch.inference_mode():
            found = method(model, tiny_batch(model, 2), METRIC)
            assert not torch.is_grad_enabled()
            assert torch.is_inference_mode_enabled() == (mode == "inference")
    for part in expected.parts:
        np.testing.assert_allclose(found.values(part), expected.values(part), atol=1e-6)
    assert torch.is_grad_enabled()
    assert all(value.requires_grad for value in hf.parameters())


def test_weights_that_are_no_numbers_are_named() -> None:
    hf = tiny_hf("llama")
    with torch.no_grad():
        hf.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"model.layers.1.mlp.up_proj.weight' holds 1 numbers that are not finite"):
        load_model(hf)


def test_a_model_that_looks_ahead_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    shape = {key: value for key, value in SHAPE.items() if key not in {"num_key_value_heads"}}
    with pytest.raises(ModelError, match="looks ahead"):
        load_model(BertLMHeadModel(BertConfig(**shape, initializer_range=0.3)))


def test_dtype_is_part_of_the_identity() -> None:
    model = tiny_model("llama")
    assert load_model(tiny_hf("llama", dtype=torch.float64)).spec.identity() != model.spec.identity()
