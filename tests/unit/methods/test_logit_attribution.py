"""Logit attribution sums to the metric on every family, and equals what removing a head's write does to a linear readout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import AdditivityError, BadParameterError, ModelError
from circuitlab.methods.logit_attribution import LogitAttribution
from circuitlab.metrics import AnswerLogit, LogitDiff, ProbDiff
from circuitlab.model import load_model
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import FAMILIES, tiny_batch, tiny_hf


@pytest.mark.some(family=1, run=3)
@pytest.mark.parametrize("run", ["clean", "corrupt", "contrast"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parts_sum_to_the_metric(family: str, run: str) -> None:
    model = load_model(tiny_hf(family))
    batch = tiny_batch(model, n=4, unequal=True)
    for metric in (LogitDiff(), AnswerLogit()):
        scores = LogitAttribution(run=run)(model, batch, metric)
        total = scores.dataset["total"].values
        np.testing.assert_allclose(scores.residual(), 0, atol=2e-5 * max(1, np.abs(total).max()))
        tokens = {"clean": batch.clean, "corrupt": batch.corrupt, "contrast": batch.clean}[run]
        expected = metric(model.logits(tokens, batch.end), batch)
        if run == "contrast":
            expected = expected - metric(model.logits(batch.corrupt, batch.end), batch)
        np.testing.assert_allclose(total, expected.numpy(), atol=1e-5)


def test_a_head_share_is_its_write_through_the_frozen_norm() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=3)
    scores = LogitAttribution()(model, batch, LogitDiff())
    last = model.spec.n_layers - 1
    final = model.capture(batch.clean, [Site.RESID_POST], layers=[last], at=batch.end)[Site.RESID_POST][:, 0].double()
    z = model.capture(batch.clean, [Site.Z], layers=[1], at=batch.end)[Site.Z][:, 0, 2].double()
    write = z @ model.weights.output(1)[2].double()
    gain = model.weights.final_norm.gain.double()
    rms = (final.pow(2).mean(-1, keepdim=True) + model.weights.final_norm.eps).sqrt()
    ids = torch.cat([batch.answers[:, :1], batch.foils[:, :1]], 1)
    columns = model.weights.unembed(ids).double()
    expected = ((write / rms * gain)[:, None] * columns).sum(-1)
    np.testing.assert_allclose(scores.values("heads")[:, 1, 2], (expected[:, 0] - expected[:, 1]).numpy(), atol=1e-6)


def test_a_nonlinear_metric_is_refused_by_name() -> None:
    model = load_model(tiny_hf("llama"))
    for metric in (ProbDiff(), LogitDiff(reduce="max")):
        with pytest.raises(BadParameterError, match="linear in the logits"):
            LogitAttribution()(model, tiny_batch(model), metric)
    with pytest.raises(BadParameterError, match="is not one of"):
        LogitAttribution(run="both")  # type: ignore[arg-type]


def test_it_runs_on_the_decoder_and_falls_back_to_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny_hf("qwen3"))
    batch = tiny_batch(model, n=5, unequal=True)
    assert model.decoder.blocks
    calls: list[str] = []
    for name in ("logits", "capture"):
        plain = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *args, _name=name, _plain=plain, **named: (calls.append(_name), _plain(*args, **named))[1])
    fast = LogitAttribution()(model, batch, LogitDiff())
    assert "capture" not in calls  # `logits` embeds the prompts, up to the first layer

    def refuse(_model: object) -> None:
        raise ModelError("This one cannot be taken apart.")

    monkeypatch.setattr(type(model), "decoder", property(refuse))
    slow = LogitAttribution()(model, batch, LogitDiff())
    assert "capture" in calls
    for part in fast.dataset.data_vars:
        np.testing.assert_allclose(fast.dataset[part].values, slow.dataset[part].values, atol=1e-5)


class _WrongWeights:
    """Weights whose output projections are a little off."""

    def __init__(self, weights: object, factor: float) -> None:
        self._weights, self._factor = weights, factor

    def __getattr__(self, name: str) -> object:
        return getattr(self._weights, name)

    def output(self, layer: int) -> torch.Tensor:
        return self._weights.output(layer) * self._factor


def test_shares_that_do_not_sum_to_the_total_are_an_error() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, n=4)
    plain, right = model.weights, LogitAttribution()(model, batch, LogitDiff())
    heads = float(np.abs(right.values("heads").sum((1, 2)) / np.maximum(1, np.abs(right.dataset["total"].values))).max())
    for share, wrong in ((2e-3, True), (5e-4, False)):
        model._loaded.readout = _WrongWeights(plain, 1 + share / heads)
        if wrong:
            with pytest.raises(AdditivityError, match=r"do not sum to the total of logit_diff on \d of 4 pairs"):
                LogitAttribution()(model, batch, LogitDiff())
        else:
            LogitAttribution()(model, batch, LogitDiff())


@pytest.mark.laws
@pytest.mark.parametrize("family", FAMILIES)
def test_models_in_16_bits_have_a_wider_tolerance(family: str) -> None:
    model = load_model(tiny_hf(family, dtype=torch.bfloat16))
    batch = tiny_batch(model, n=8)
    scores = LogitAttribution()(model, batch, LogitDiff())
    assert np.abs(scores.residual()).max() > 0
    if not model.spec.post_norm:  # which divides a common factor of the heads away
        model._loaded.readout = _WrongWeights(model.weights, 3.0)
        with pytest.raises(AdditivityError):
            LogitAttribution()(model, batch, LogitDiff())
