"""The adapter: edits land where they say, refusals name what is wrong, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch

from circuitlab.core.errors import BadParameterError, EditDidNotFireError, ModelError
from circuitlab.model import load_model
from circuitlab.model.hooks import HookedRun
from circuitlab.model.sites import Edit, Site
from circuitlab.model.transformer_lens import to_bridge
from circuitlab.testing.tiny import tiny_hf, tiny_model

TOKENS = torch.arange(12).reshape(2, 6)
END = torch.tensor([5, 5])


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def left_over_hooks(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.root.modules())


@pytest.mark.parametrize("site", [Site.Z, Site.ATTN_OUT, Site.MLP_OUT, Site.RESID_PRE, Site.RESID_MID, Site.RESID_POST, Site.Q, Site.V])
def test_an_edit_is_what_is_then_read(model, site) -> None:
    value = torch.randn(model.capture(TOKENS, [site], layers=[1])[site][:, 0].shape)
    read = model.with_edits([Edit(site, 1, value)]).capture(TOKENS, [site], layers=[1])[site][:, 0]
    torch.testing.assert_close(read, value, atol=1e-5, rtol=1e-5)


def test_one_head_at_one_position_of_some_rows(model) -> None:
    before = model.capture(TOKENS, [Site.Z], layers=[2])[Site.Z][:, 0]
    edit = Edit(Site.Z, 2, torch.full((1, 8), 3.0), head=1, positions=torch.tensor([4]), rows=slice(1, 2))
    after = model.with_edits([edit]).capture(TOKENS, [Site.Z], layers=[2])[Site.Z][:, 0]
    changed = (before != after).nonzero()
    assert changed[:, :3].unique(dim=0).tolist() == [[1, 4, 1]]
    assert (after[1, 4, 1] == 3).all()


def test_an_edit_at_an_early_position_changes_the_answer_and_one_after_it_does_not(model) -> None:
    early = Edit(Site.RESID_PRE, 0, torch.randn(2, 32), positions=torch.tensor([1, 1]))
    late = Edit(Site.RESID_PRE, 0, torch.randn(2, 32), positions=torch.tensor([5, 5]))
    at = torch.tensor([3, 3])
    plain = model.logits(TOKENS, at)
    assert not torch.allclose(model.with_edits([early]).logits(TOKENS, at), plain)
    torch.testing.assert_close(model.with_edits([late]).logits(TOKENS, at), plain)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (Edit(Site.Z, 3, torch.zeros(2, 6, 4, 8)), "Layer 3 does not exist; .* layers 0 to 2"),
        (Edit(Site.Z, -1, torch.zeros(2, 6, 4, 8)), "Layer -1 does not exist"),
        (Edit(Site.Z, 0, torch.zeros(2, 6, 8), head=4), "Head 4 does not exist at 'z'.* 4 heads"),
        (Edit(Site.K, 0, torch.zeros(2, 6, 8), head=2), "Head 2 does not exist at 'k'.* 2 heads"),
        (Edit(Site.MLP_OUT, 0, torch.zeros(2, 6, 8), head=0), "has no heads"),
        (Edit(Site.Z, 0, torch.zeros(2, 6, 4)), r"shape \(2, 6, 4\); \(2, 6, 4, 8\) is needed"),
        (Edit(Site.Z, 0, torch.zeros(1, 6, 4, 8)), r"shape \(1, 6, 4, 8\)"),
        (Edit(Site.Z, 0, torch.zeros(2, 4, 8), positions=torch.tensor([0, 6])), r"Positions \[0, 6\].*6 tokens"),
        (Edit(Site.Z, 0, torch.zeros(2, 4, 8), positions=torch.tensor([0, -1])), r"Positions \[0, -1\]"),
    ],
)
def test_a_wrong_edit_is_refused_and_leaves_nothing_behind(model, edit, says) -> None:
    before = left_over_hooks(model)
    with pytest.raises(BadParameterError, match=says):
        model.with_edits([edit]).logits(TOKENS, END)
    assert left_over_hooks(model) == before


def test_hooks_are_removed_when_the_forward_pass_itself_fails(model, monkeypatch) -> None:
    plain, before = model.logits(TOKENS, END), left_over_hooks(model)
    norm = model.root.model.norm

    def broken(*_) -> None:
        raise RuntimeError("the model failed")

    with monkeypatch.context() as patch:
        patch.setattr(type(norm), "forward", broken)
        with pytest.raises(RuntimeError, match="the model failed"):
            model.with_edits([Edit(Site.Z, 0, torch.zeros(2, 6, 4, 8))]).logits(TOKENS, END)
    assert left_over_hooks(model) == before
    torch.testing.assert_close(model.logits(TOKENS, END), plain, atol=0, rtol=0)


def test_an_edit_whose_site_does_not_run_is_noticed(model, monkeypatch) -> None:
    monkeypatch.setattr(HookedRun, "logits", lambda *_: torch.zeros(2, 48))
    with pytest.raises(EditDidNotFireError, match=r"1 of 1 edits never fired \(z of layer 0\).*doctor"):
        model.with_edits([Edit(Site.Z, 0, torch.zeros(2, 6, 4, 8))]).logits(TOKENS, END)
    with pytest.raises(ModelError, match="never computed 'z' of layer 0"):
        model.capture(TOKENS, [Site.Z])


@pytest.mark.parametrize(
    ("tokens", "at", "says"),
    [
        (TOKENS, torch.tensor([5]), r"cannot be read at positions \[5\]"),
        (TOKENS, torch.tensor([5, 6]), r"positions \[5, 6\]"),
        (TOKENS + 40, END, "run from 40 to 51; .* has 48 tokens"),
        (TOKENS - 1, END, "run from -1"),
        (TOKENS.float(), END, "Tokens are float32, not whole numbers"),
        (TOKENS > 1, END, "Tokens are bool, not whole numbers"),
        (TOKENS, END.double(), "Positions are float64, not whole numbers"),
        (TOKENS[0], END, "are not prompts"),
        (TOKENS[:0], END[:0], r"shape \(0, .* are not prompts"),
        (TOKENS[:, :0], END, "are not prompts"),
        ([[1, 2, 3], [4, 5]], END, "Tokens of type list cannot be read"),
        (None, END, "Tokens of type NoneType cannot be read"),
    ],
)
def test_tokens_the_model_cannot_read_are_refused(model, tokens, at, says) -> None:
    with pytest.raises(BadParameterError, match=says):
        model.logits(tokens, at)
    with pytest.raises(BadParameterError, match=says):
        model.sweep(tokens, at, [])


@pytest.mark.parametrize(
    "form",
    [torch.Tensor.int, torch.Tensor.short, torch.Tensor.byte, torch.Tensor.numpy, torch.Tensor.tolist],
    ids=["int32", "int16", "uint8", "array", "lists"],
)
def test_tokens_come_from_whatever_holds_them(model, form) -> None:
    expected, read = model.logits(TOKENS, END), model.capture(TOKENS, [Site.Z])[Site.Z]
    assert torch.equal(model.logits(form(TOKENS), form(END)), expected)
    assert torch.equal(model.capture(form(TOKENS), [Site.Z])[Site.Z], read)
    assert torch.equal(model.with_edits([Edit(Site.Z, 1, read[:, 1])]).logits(form(TOKENS), form(END)), expected)


def test_a_parallel_block_has_no_middle() -> None:
    with pytest.raises(ModelError, match="no site 'resid_mid'"):
        tiny_model("gpt_neox").capture(TOKENS, [Site.RESID_MID])


def test_a_bridge_and_a_model_in_memory_load_to_the_same_model(model) -> None:
    again = load_model(to_bridge(model.root), name="again")
    torch.testing.assert_close(again.logits(TOKENS, END), model.logits(TOKENS, END), atol=0, rtol=0)
    assert again.spec.identity() == model.spec.identity()
    assert load_model(tiny_hf("llama")).spec.weights == model.spec.weights
    assert load_model(tiny_hf("llama", seed=1)).spec.weights != model.spec.weights
    assert again.tokenizer is None


def test_a_bridge_in_compatibility_mode_is_refused() -> None:
    bridge = to_bridge(tiny_hf("gpt2"))
    bridge.enable_compatibility_mode(disable_warnings=True)
    with pytest.raises(ModelError, match="compatibility mode"):
        load_model(bridge)


def test_a_bridge_that_computes_something_else_is_refused() -> None:
    hf = tiny_hf("gpt2")
    hf.config.scale_attn_weights = False
    for block in hf.transformer.h:
        block.attn.scale_attn_weights, block.attn.scaling = False, 1.0
    with pytest.raises(ModelError, match="away from those of the GPT2LMHeadModel that it wraps"):
        load_model(to_bridge(hf))


def test_loading_a_model_twice_gives_two_models_that_work(model) -> None:
    hf = tiny_hf("llama")
    first, second = load_model(hf), load_model(hf)
    assert first.spec.identity() == second.spec.identity() == model.spec.identity()
    assert len(second.decoder.blocks) == len(first.decoder.blocks) == 3
    assert type(hf.model.layers[0]).__name__ == "LlamaDecoderLayer"


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_wrapping_a_model_leaves_the_random_state_alone(family) -> None:
    hf = tiny_hf(family)
    state = torch.get_rng_state()
    load_model(hf)
    assert torch.equal(torch.get_rng_state(), state)
