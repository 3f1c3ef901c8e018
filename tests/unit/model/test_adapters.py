"""A PEFT model is served with its adapter, merged or not, and with the state that the adapter is in."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch

from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.testing.tiny import tiny_batch, tiny_hf

METRIC = LogitDiff()


@pytest.fixture
def adapted():
    """A tiny Llama with a LoRA adapter that changes its logits."""
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
    model = peft.get_peft_model(tiny_hf("llama"), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return model.eval()


def heads(model, batch, **params) -> np.ndarray:
    return get_method("activation_patching", params)(model, batch, METRIC).values("heads")


def test_an_adapter_is_part_of_the_model(adapted) -> None:
    model, base = load_model(adapted), load_model(tiny_hf("llama"))
    batch = tiny_batch(model, 3, unequal=True)
    with torch.no_grad():
        expected = adapted(input_ids=batch.clean, use_cache=False).logits[torch.arange(3), batch.end]
    torch.testing.assert_close(model.logits(batch.clean, batch.end), expected)
    assert not torch.allclose(base.logits(batch.clean, batch.end), expected, atol=0.1)
    np.testing.assert_allclose(heads(model, batch), heads(model, batch, engine="hooks"), atol=1e-4)
    assert model.spec.identity() != base.spec.identity()
    merged = load_model(adapted.merge_and_unload())
    np.testing.assert_allclose(heads(merged, batch), heads(model, batch), atol=1e-4)


def test_a_disabled_adapter_is_noticed_and_so_is_its_return(adapted) -> None:
    model, base = load_model(adapted), load_model(tiny_hf("llama"))
    batch = tiny_batch(model, 2)
    before, scores = model.spec.identity(), heads(model, batch)
    with adapted.disable_adapter():
        np.testing.assert_allclose(heads(model, batch), heads(base, batch), atol=1e-6)
        assert model.spec.identity() != before
    np.testing.assert_allclose(heads(model, batch), scores, atol=1e-6)
    assert model.spec.identity() == before


def scale(adapted) -> None:
    for module in adapted.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling = {name: 2 * factor for name, factor in module.scaling.items()}


def train(adapted) -> None:
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_B" in name:
                value.add_(0.1)


@pytest.mark.parametrize("change", [scale, train])
def test_an_adapter_that_changes_is_noticed(adapted, change) -> None:
    model = load_model(adapted)
    batch = tiny_batch(model, 2)
    before, scores = model.spec.identity(), heads(model, batch)
    change(adapted)
    after = heads(model, batch)
    assert model.spec.identity() != before
    np.testing.assert_allclose(after, heads(load_model(adapted), batch), atol=1e-6)
    assert np.abs(after - scores).max() > 1e-3


def test_a_number_that_is_changed_on_a_module_is_another_model() -> None:
    hf = tiny_hf("llama")
    model = load_model(hf)
    batch = tiny_batch(model, 2)
    before, scores = model.spec.identity(), heads(model, batch)
    hf.model.layers[1].self_attn.scaling *= 3
    assert np.abs(heads(model, batch) - scores).max() > 1e-4
    assert model.spec.identity() != before
