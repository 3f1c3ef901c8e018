"""A streamed model gives the numbers of the model in memory bit for bit, and reads itself as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.reference.streamed import FAMILIES, both, pairs

import circuitlab as cl
from circuitlab.circuits import Circuit
from circuitlab.evaluation import Evaluate, NodeCircuitRunner
from circuitlab.execute.memory import memory_budget
from circuitlab.execute.routes import universe_of
from circuitlab.metrics import get_metric
from circuitlab.model import load_model
from circuitlab.testing.tiny import tiny_batch, tiny_hf

ALL_PARTS = ("heads", "attns", "mlps", "resid_pre", "resid_mid", "resid_post")
PATCHING = cl.methods.ActivationPatching
GRADIENTS = cl.methods.AttributionPatching
PATHS = cl.methods.PathPatching
STAR = cl.methods.AttributionPatchingStar
SCREENED = cl.methods.ScreenedPatching
METHODS = {
    "patching, every part": PATCHING(parts=ALL_PARTS),
    "patching, noising, at marks": PATCHING(direction="noising", positions=("CHANGE", "END")),
    "patching queries": PATCHING(parts="heads", site="q"),
    "patching keys": PATCHING(parts="heads", site="k", positions=("CHANGE",)),
    "patching values": PATCHING(parts="heads", site="v"),
    "patching patterns": PATCHING(parts="heads", site="pattern"),
    "patching, differences in bfloat16": PATCHING(precision="bf16_difference"),
    "gradients, every part": GRADIENTS(parts=(*ALL_PARTS, "embed")),
    "gradients, noising, keys, at marks": GRADIENTS("noising", "heads", "k", ("CHANGE", "END"), pairs_per_pass=2),
    "gradients at patterns": GRADIENTS(parts="heads", site="pattern"),
    "AtP*": STAR(),
    "AtP*, noising, values, at marks": STAR("noising", ("heads", "attns", "mlps"), "v", ("CHANGE", "END"), pairs_per_pass=2),
    "AtP* without GradDrop": STAR(reduce="none"),
    "screened patching": SCREENED(k=2, sample=3),
    "screened patching, noising, at marks": SCREENED("noising", ("heads", "attns"), ("CHANGE", "END"), 3, 2, pairs_per_pass=2),
    "paths": PATHS(senders=("heads", "mlps", "embed")),
    "paths, noising, frozen MLPs, at marks": PATHS("noising", "heads", mlps="frozen", positions=("CHANGE", "END"), pairs_per_pass=2),
}


def require_same(scores, expected) -> None:
    assert scores.provenance == expected.provenance
    assert set(scores.dataset) == set(expected.dataset)
    for name in expected.dataset:
        np.testing.assert_array_equal(scores.dataset[name].values, expected.dataset[name].values, err_msg=name)


@pytest.mark.some(name=2, family=3)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_gives_the_same_numbers(family, name) -> None:
    model, streamed = both(family)
    batch, metric = pairs(model), get_metric("logit_diff")
    require_same(METHODS[name](streamed, batch, metric), METHODS[name](model, batch, metric))


@pytest.mark.parametrize("ablation", ["resample", "zero"])
@pytest.mark.parametrize("family", FAMILIES)
def test_knock_out_curves_are_the_same(family, ablation) -> None:
    model, streamed = both(family)
    batch, metric, reading = pairs(model), get_metric("logit_diff"), streamed.source.reading
    scores = PATCHING()(model, batch, metric)
    settings = Evaluate(ablation=ablation, parts=("heads", "mlps"), n_random=5, n_subsets=2, fractions=(0.1, 0.4))
    circuit, before = Circuit(["a0.h1", "a1.h2", "m0"]).within(universe_of(model)), reading.layers
    measured = settings(circuit, streamed, batch, metric, scores)
    assert reading.layers - before > model.spec.n_layers
    expected = settings(circuit, model, batch, metric, scores)
    assert measured.to_dict() == expected.to_dict()
    assert set(measured.values) == set(expected.values)
    for name in expected.values:
        np.testing.assert_array_equal(measured.values[name], expected.values[name], err_msg=name)


def test_circuits_that_do_not_fit_in_memory_together_are_run_in_several_readings() -> None:
    model, streamed = both("llama")
    batch, metric, reading = tiny_batch(model, 4), get_metric("logit_diff"), streamed.source.reading
    masks = np.random.default_rng(0).random((60, len(NodeCircuitRunner(model, batch, metric).elements))) < 0.5
    expected = NodeCircuitRunner(model, batch, metric).run(masks)
    readings = {}
    for gib in (4.0, 1e-9):
        before = reading.layers
        with memory_budget(gib):
            values = NodeCircuitRunner(streamed, batch, metric).run(masks)
        np.testing.assert_allclose(values, expected, atol=1e-5)
        readings[gib] = (reading.layers - before) / model.spec.n_layers
    assert readings[4.0] <= 2 < readings[1e-9]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("method", [PATCHING(), GRADIENTS(), PATHS()], ids=lambda method: method.name)
def test_metrics_of_the_whole_vocabulary_are_the_same(family, method) -> None:
    model, streamed = both(family)
    batch, metric = tiny_batch(model, 3), get_metric("kl")
    require_same(method(streamed, batch, metric), method(model, batch, metric))


@pytest.mark.parametrize("family", FAMILIES)
def test_identity_and_logits_are_those_of_the_model_in_memory(family) -> None:
    model, streamed = both(family)
    batch = pairs(model)
    assert streamed.spec == model.spec
    assert torch.equal(streamed.logits(batch.clean, batch.end), model.logits(batch.clean, batch.end))
    resid = torch.randn(3, model.spec.d_model)
    assert torch.equal(streamed.unembed(resid), model.unembed(resid))
    assert torch.equal(streamed.unembed(resid, torch.tensor([3, 40, 3])), model.unembed(resid, torch.tensor([3, 40, 3])))
    assert torch.equal(streamed.by_layer.embed(batch.clean), model.decoder.embed(batch.clean))


@pytest.mark.some(stored=1, dtype=2)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_are_converted_as_in_memory(tmp_path, stored, dtype) -> None:
    tiny_hf("llama", dtype=stored).save_pretrained(tmp_path / "tiny", max_shard_size="12KB")
    model, streamed = load_model(tmp_path / "tiny", dtype=dtype), load_model(tmp_path / "tiny", dtype=dtype, stream=True)
    batch, metric = tiny_batch(model, 3), get_metric("logit_diff")
    for method in (PATCHING(), PATCHING(precision="bf16_difference"), GRADIENTS()):
        require_same(method(streamed, batch, metric), method(model, batch, metric))


def test_the_error_of_reduced_precision_is_measured_in_the_run() -> None:
    model, streamed = both("qwen3")
    scores = PATCHING(precision="bf16_difference")(streamed, pairs(model), get_metric("logit_diff"))
    measured = scores.provenance.measured
    assert 0 < measured["precision_error_rms"] < 0.05 * measured["precision_effect_rms"]


@pytest.mark.parametrize(("method", "readings"), [(PATCHING(), 2), (GRADIENTS(), 2), (PATHS(positions=("CHANGE", "END")), 2)])
def test_each_layer_is_read_once_in_each_reading(method, readings) -> None:
    model, streamed = both("llama")
    batch, depth, before = pairs(model), model.spec.n_layers, streamed.source.reading.layers
    method(streamed, batch, get_metric("logit_diff"))
    read = streamed.source.reading.layers - before
    assert (readings - 1) * depth < read <= readings * depth  # the layer at which a pass turns around is not read again


@pytest.mark.some(1)
@pytest.mark.parametrize("method", [PATCHING(), PATHS()], ids=lambda method: method.name)
def test_prompts_of_two_thousand_tokens(tmp_path, method) -> None:
    hf = tiny_hf("gemma3")
    hf.config.max_position_embeddings = 4096
    hf.save_pretrained(tmp_path / "tiny", max_shard_size="12KB")
    model, streamed = load_model(tmp_path / "tiny"), load_model(tmp_path / "tiny", stream=True)
    clean = torch.randint(0, 48, (1, 2000), generator=torch.Generator().manual_seed(0))
    corrupt = clean.clone()
    corrupt[0, 1990] = (clean[0, 1990] + 1) % 48
    batch = cl.ContrastBatch.from_tokens(clean.tolist(), corrupt.tolist(), [[1]], [[2]])
    require_same(method(streamed, batch, get_metric("logit_diff")), method(model, batch, get_metric("logit_diff")))
