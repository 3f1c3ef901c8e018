"""Identity is everything that changes a logit, and a model notices when it has changed; the caller's own state is left alone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from circuitlab.circuits import Circuit
from circuitlab.core.errors import ModelError
from circuitlab.core.nodes import Head, Universe
from circuitlab.evaluation import Evaluate
from circuitlab.evaluation.identity import EvaluationInput
from circuitlab.execute.contract import provenance_of
from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.store import Cache
from circuitlab.testing.families import configuration
from circuitlab.testing.tiny import tiny_batch, tiny_hf, tiny_model
from circuitlab.workflows.circuit import evaluate_batch
from circuitlab.workflows.score import score_batch

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


def hooked(hf) -> None:
    hf.model.layers[1].mlp.register_forward_hook(lambda _module, _args, out: out * 0.5)


def another_forward(hf) -> None:
    mlp = hf.model.layers[1].mlp
    plain = mlp.forward
    mlp.forward = functools.wraps(plain)(lambda x: 0.5 * plain(x))


@pytest.mark.parametrize("change", [in_place, replaced, through_data, rows_exchanged, rotation, hooked, another_forward])
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


def test_a_hook_that_is_taken_away_gives_the_model_back_and_another_is_another_model() -> None:
    hf = tiny_hf("llama")
    model = load_model(hf)

    def identity() -> dict[str, str]:
        model.refresh()
        return model.spec.identity()

    before, seen, mlp = identity(), [], hf.model.layers[1].mlp
    for factor in (0.5, 0.25, None):
        if factor is None:
            handle = mlp.register_forward_pre_hook(lambda _module, args: (args[0] * 0.5,))
        else:
            handle = mlp.register_forward_hook(lambda _module, _args, out, factor=factor: out * factor)
        seen.append(identity())
        handle.remove()
        assert identity() == before
    assert before not in seen
    assert len({str(one) for one in seen}) == len(seen)


@pytest.mark.parametrize("stored", ["evaluation", "run"])
def test_what_is_stored_of_a_hooked_model_is_not_the_plain_ones(stored, tmp_path) -> None:
    hf, store = tiny_hf("llama"), Cache(tmp_path)
    model = load_model(hf)
    batch = tiny_batch(model, 2)

    def found() -> bool:
        if stored == "run":
            return score_batch(model, batch, get_method("logit_attribution"), METRIC, store=store).cached
        circuit = Circuit(frozenset({Head(0, 1)}), Universe(3, 4, 2))
        return evaluate_batch(EvaluationInput(circuit, model, batch, METRIC), "these", Evaluate(n_random=2, n_subsets=0), store).cached

    assert [found(), found()] == [False, True]
    hf.model.layers[1].mlp.register_forward_hook(lambda _module, _args, out: out * 0.5)
    assert [found(), found()] == [False, True]


def scaled_rotation(hf) -> None:
    hf.model.rotary_emb.attention_scaling = 3.0


def slower_rotation(hf) -> None:
    hf.model.rotary_emb.inv_freq.mul_(0.25)


def shorter_window(hf) -> None:
    hf.config.sliding_window = 3


def lower_cap(hf) -> None:
    hf.config.final_logit_softcapping = 0.5


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama_yarn", scaled_rotation),
        ("llama_yarn", slower_rotation),
        ("llama_linear", slower_rotation),
        ("mistral", shorter_window),
        ("gemma2", lower_cap),
    ],
)
def test_settings_that_change_after_loading_are_noticed(family, change) -> None:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(configuration(family), attn_implementation="eager").eval()
    model, method = load_model(hf), get_method("activation_patching")
    batch = tiny_batch(model, 2)
    before, scores = model.spec.identity(), method(model, batch, METRIC).values("heads")
    change(hf)
    after = method(model, batch, METRIC).values("heads")
    assert model.spec.identity() != before
    assert np.abs(after - scores).max() > 1e-5
    np.testing.assert_allclose(after, method(load_model(hf), batch, METRIC).values("heads"), atol=1e-6)


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


def sixteen_bits() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


def test_nothing_that_is_run_is_rounded_by_autocast() -> None:
    model = tiny_model("llama")
    batch, circuit = tiny_batch(model, 2), Circuit(frozenset({Head(0, 1)}), Universe(3, 4, 2))
    edits = [EditSet([Edit(Site.Z, 0, torch.zeros(2, 9, 8), head=1)])]

    def found() -> list[object]:
        fresh = load_model(model.root)
        swept = fresh.sweep(batch.clean, batch.end, edits)
        measured = Evaluate(n_random=2, n_subsets=0)(circuit, fresh, batch, METRIC).to_dict()
        written = fresh.generate(batch, max_new_tokens=3)
        return [fresh.logits(batch.clean, batch.end), swept, measured["faithfulness"], [one.logprobs for one in written]]

    plain = found()
    with sixteen_bits():
        assert str(found()) == str(plain)


@pytest.mark.some(name=2, mode=4)
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("mode", ["train", "no_grad", "inference", "autocast"])
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
        with {"no_grad": torch.no_grad, "inference": torch.inference_mode, "autocast": sixteen_bits}[mode]():
            found = method(model, tiny_batch(model, 2), METRIC)
            assert torch.is_grad_enabled() == torch.is_autocast_enabled("cpu") == (mode == "autocast")
            assert torch.is_inference_mode_enabled() == (mode == "inference")
    for part in expected.parts:
        np.testing.assert_allclose(found.values(part), expected.values(part), atol=1e-6)
    assert torch.is_grad_enabled()
    assert all(value.requires_grad for value in hf.parameters())


def test_weights_that_are_no_numbers_are_named() -> None:
    hf = tiny_hf("llama")
    with torch.no_grad():
        hf.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"model.layers.1.mlp.up_proj.weight' has 1 entries that are not finite"):
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
