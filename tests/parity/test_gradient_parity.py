"""Gradients traced from the first difference on equal those traced on whole prompts."""

from __future__ import annotations

import pytest
from test_patching_parity import assert_parity
from tolerances import TINY_FLOAT32

from circuitlab.execute.first_order import EffectEstimator, first_order
from circuitlab.execute.relevance import relevance_decoder
from circuitlab.methods.atp_star import AttributionPatchingStar
from circuitlab.methods.attribution_patching import AttributionPatching
from circuitlab.metrics import LogitDiff
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model, tiny_batch, tiny_model

METRIC = LogitDiff()


@pytest.mark.some(family=1, site=3)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("site", ["z", "q", "k", "v", "pattern"])
def test_traces_of_the_window_give_what_traces_of_whole_prompts_give(family: str, site: str) -> None:
    model = shared_tiny_model(family)
    batch = tiny_batch(model, 4, unequal=True)
    parts = ("heads", "mlps", "resid_pre", "embed")
    for positions in (("all",), ("CHANGE", "END")):
        method = AttributionPatching(parts=parts, site=site, positions=positions, pairs_per_pass=3)
        short, whole = (first_order(method, model, batch, METRIC, EffectEstimator(whole=how)) for how in (False, True))
        assert short.parts == whole.parts
        for part in (*short.parts, "total"):
            assert_parity(short.dataset[part].values, whole.dataset[part].values, TINY_FLOAT32)
    same = tiny_batch(model, 3)
    short, whole = (
        first_order(AttributionPatching(positions=("each",)), model, same, METRIC, EffectEstimator(whole=how)) for how in (False, True)
    )
    assert_parity(short.values("heads"), whole.values("heads"), TINY_FLOAT32)
    assert (short.values("heads")[:, :2] == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frozen", [True, False])
def test_relevance_too(family: str, frozen: bool) -> None:
    model = shared_tiny_model(family)
    batch, method = tiny_batch(model, 4, unequal=True), AttributionPatching(direction="noising")
    decoder = relevance_decoder(model, frozen_pattern=frozen)
    short, whole, plain = (
        first_order(method, model, batch, METRIC, way)
        for way in (EffectEstimator(decoder=decoder), EffectEstimator(decoder=decoder, whole=True), EffectEstimator())
    )
    assert_parity(short.values("heads"), whole.values("heads"), TINY_FLOAT32)
    with pytest.raises(AssertionError):
        assert_parity(short.values("heads"), plain.values("heads"), TINY_FLOAT32)


@pytest.mark.parametrize("site", ["z", "v"])
@pytest.mark.parametrize("reduce", ["signed", "absolute"])
def test_dropped_gradients_too(monkeypatch, site: str, reduce: str) -> None:
    model = tiny_model("llama")
    batch, method = tiny_batch(model, 4, unequal=True), AttributionPatchingStar(site=site, reduce=reduce)
    short = method(model, batch, METRIC)
    monkeypatch.setattr(
        "circuitlab.methods.atp_star.EffectEstimator",
        lambda effects, decoder, whole, drops: EffectEstimator(effects, decoder, whole=not whole, drops=drops),
    )
    whole = method(model, batch, METRIC)
    for part in short.parts:
        assert_parity(short.values(part), whole.values(part), TINY_FLOAT32)
