"""On a real card, where there is one: scores, generation and edits agree with the processor. Elsewhere this is skipped, and says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import circuitlab as cl
from circuitlab.core.errors import BadParameterError
from circuitlab.execute.contract import weights_only
from circuitlab.methods import get_method, method_classes
from circuitlab.metrics import get_metric
from circuitlab.model.hooks import full_precision
from circuitlab.testing.tiny import tiny_batch, tiny_hf

needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here: not run on a real GPU")


@needs_card
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("name", list(method_classes()))
def test_methods_agree_with_the_processor(name, family) -> None:
    host, there = cl.load_model(tiny_hf(family)), cl.load_model(tiny_hf(family).to("cuda"))
    method, batch = get_method(name), tiny_batch(host)
    ours, theirs = (method(m) if weights_only(method) else method(m, batch, get_metric("logit_diff")) for m in (there, host))
    for part in theirs.dataset.data_vars:
        np.testing.assert_allclose(ours.dataset[part].values, theirs.dataset[part].values, atol=2e-4, rtol=2e-3)


@needs_card
def test_runs_edits_and_generation(tmp_path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path / "tiny")
    host, there = cl.load_model(tmp_path / "tiny"), cl.load_model(tmp_path / "tiny", device="cuda")
    batch = tiny_batch(host, unequal=True)
    assert there.logits(batch.clean, batch.end).device.type == "cuda"
    torch.testing.assert_close(there.logits(batch.clean, batch.end).cpu(), host.logits(batch.clean, batch.end), atol=2e-4, rtol=2e-3)
    edit = cl.interventions.Knockout("a1.h1", "mean", batch=batch)
    assert there.edited(edit).generate([[1, 2, 3]], 4) == host.edited(edit).generate([[1, 2, 3]], 4)


@pytest.mark.parametrize("legacy", [True, False])
def test_products_are_not_rounded_whatever_the_caller_chose(legacy) -> None:
    products = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [one.fp32_precision for one in products]
    try:
        if legacy:
            torch.set_float32_matmul_precision("high")
        else:
            torch.backends.cuda.matmul.fp32_precision = "tf32"
        chosen = [one.fp32_precision for one in products]
        assert "tf32" in chosen
        with full_precision():
            assert not {one.fp32_precision for one in products} - {"ieee", "none"}
        assert [one.fp32_precision for one in products] == chosen
    finally:
        if legacy:
            torch.set_float32_matmul_precision("highest")
        for one, value in zip(products, before, strict=True):
            one.fp32_precision = value


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cuda", "there is no CUDA device here"),
        ("cuda:7", "CUDA device"),
        ("mps", "no numbers of 64 bits"),
        ("xpu", "is not supported"),
        ("gpu", "is not the name of a device"),
        ("", "is not the name of a device"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(device, says) -> None:
    if device.startswith("cuda") and torch.cuda.is_available() and torch.cuda.device_count() > int(device.partition(":")[2] or 0):
        pytest.skip("it is there")
    with pytest.raises(BadParameterError, match=says if not torch.cuda.is_available() else "device"):
        cl.load_model("/nowhere", device=device)


def test_what_is_not_supported_is_refused_by_name(tmp_path, monkeypatch) -> None:
    from circuitlab.core.errors import ModelError

    hf = tiny_hf("llama")
    assert cl.load_model(hf, device="cpu").spec.n_layers == 3
    monkeypatch.setattr("circuitlab.model.load.require_device", torch.device)  # as on a machine with a card
    with pytest.raises(BadParameterError, match="for a model in memory that is on 'cpu'"):
        cl.load_model(hf, device="cuda")
    with pytest.raises(BadParameterError, match="streamed to the processor only"):
        cl.load_model(tmp_path, device="cuda", stream=True)
    hf.model.layers[2].mlp.to("meta")
    with pytest.raises(ModelError, match="not in memory"):
        cl.load_model(hf)


def test_a_model_that_is_spread_over_devices_is_refused() -> None:
    from circuitlab.core.errors import ModelError
    from circuitlab.model.device import require_one_device

    from .pretended import move, pretended

    hf = tiny_hf("llama")
    with pretended():
        move(hf.model.layers[2])
        with pytest.raises(ModelError, match="is spread over cpu, cuda:0; circuitlab runs a model on one device"):
            require_one_device(hf, "tiny")
