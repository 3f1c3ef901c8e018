"""What a streamed model cannot do is refused by name, before any layer is read; damaged files are named; no thread is left."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from tests.reference.streamed import both, pairs

import circuitlab as cl
from circuitlab.core.errors import BadParameterError, ModelError, StreamedModelError, WeightsError
from circuitlab.evaluation import Evaluate
from circuitlab.execute.needs import refusal
from circuitlab.methods import method_classes
from circuitlab.methods.roles import role_classes
from circuitlab.metrics import get_metric
from circuitlab.model import load_model
from circuitlab.model.weights.folder_hash import remembered_hash
from circuitlab.testing.tiny import tiny_batch, tiny_hf

STREAMED = {"activation_patching", "atp_star", "attribution_patching", "path_patching", "screened_patching"}
OTHERS = sorted(method_classes().keys() - STREAMED)


def layers_read(model) -> int:
    return model.source.reading.layers


def test_these_methods_accept_a_streamed_model() -> None:
    _, streamed = both("llama")
    assert {name for name, cls in method_classes().items() if not refusal(cls(), streamed)} == STREAMED


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_method_is_refused_before_work(name) -> None:
    model, streamed = both("llama")
    before = layers_read(streamed)
    with pytest.raises(ModelError, match=rf"{name} cannot run on this model: tiny-llama is streamed, one layer at a time"):
        method_classes()[name]()(streamed, pairs(model), get_metric("logit_diff"))
    with pytest.raises(ModelError, match=rf"{name} cannot run on this model: tiny-llama is streamed"):
        cl.score(streamed, None if getattr(method_classes()[name], "weights_only", False) else pairs(model), name)
    assert layers_read(streamed) == before


@pytest.mark.parametrize(
    ("method", "why"),
    [
        (cl.methods.ActivationPatching(engine="hooks"), "engine='hooks' runs the whole model"),
        (cl.methods.AttributionPatchingStar(site="q"), "the QK fix recomputes the attention of whole prompts"),
        (cl.methods.AttributionPatchingStar(reduce="absolute"), "takes a pass down for every layer"),
        (cl.methods.PathPatching(receivers="a2.h1<q>"), "other receivers than the logits"),
        (cl.methods.PathPatching(via="m1"), "other receivers than the logits"),
    ],
)
def test_parameters_that_cannot_be_streamed_are_refused(method, why) -> None:
    model, streamed = both("llama")
    before = layers_read(streamed)
    with pytest.raises(ModelError, match=why):
        method(streamed, pairs(model), get_metric("logit_diff"))
    assert layers_read(streamed) == before


@pytest.mark.parametrize("name", sorted(role_classes()))
def test_every_role_is_refused(name) -> None:
    _, streamed = both("llama")
    assert "is streamed, one layer at a time is in memory" in refusal(role_classes()[name](), streamed)


REFUSED = {
    "decoder": lambda model, batch: model.decoder,
    "capture": lambda model, batch: model.capture(batch.clean, list(model.sites)),
    "sweep": lambda model, batch: model.sweep(batch.clean, batch.end, []),
    "edits": lambda model, batch: model.with_edits([]),
    "edited": lambda model, batch: model.edited(cl.interventions.Knockout(["a0.h0"], "zero")),
    "generation": lambda model, batch: model.generate([1, 2], 2),
    "attention": lambda model, batch: model.attention("a0.h0", [1, 2]),
    "gradients": lambda model, batch: model.logits(batch.clean, batch.end, gradients=True),
    "output projection": lambda model, batch: model.weights.output(0),
    "embedding": lambda model, batch: model.weights.embedding,
    "unembedding": lambda model, batch: model.weights.unembed(slice(None)),
    "circuits of edges": lambda model, batch: cl.evaluate(model, cl.Circuit(["a0.h0", "logits"], edges=["a0.h0->logits"]), batch),
    "mean ablation": lambda model, batch: cl.evaluate(model, cl.Circuit(["a0.h0"]), batch, settings=Evaluate(ablation="mean")),
    "transfer": lambda model, batch: cl.transfer(model, [batch, batch], rule=2),
    "card": lambda model, batch: cl.head_card(model, "a0.h0", [batch]),
    "lens": lambda model, batch: cl.logit_lens(model, [1, 2, 3]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_everything_else_is_refused_by_name(what) -> None:
    model, streamed = both("llama")
    before = layers_read(streamed)
    with pytest.raises(StreamedModelError, match="streamed"):
        REFUSED[what](streamed, pairs(model))
    assert layers_read(streamed) == before


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "gpt2"), ("gpt_neox", "gpt_neox"), ("phi3", "phi3"), ("mixtral", "mixtral")])
def test_families_that_cannot_be_streamed_are_refused(tmp_path, family, kind) -> None:
    tiny_hf(family).save_pretrained(tmp_path / "tiny")
    with pytest.raises(ModelError, match=rf"tiny cannot be streamed: '{kind}' is not among llama"):
        load_model(tmp_path / "tiny", stream=True)


def test_angles_that_depend_on_the_length_are_refused(tmp_path) -> None:
    tiny_hf("llama_dynamic").save_pretrained(tmp_path / "tiny")
    with pytest.raises(ModelError, match="Layer 0 of tiny cannot be streamed: its rotary angles depend on the length"):
        load_model(tmp_path / "tiny", stream=True)


def test_models_in_memory_and_foreign_code_are_refused(folder) -> None:
    with pytest.raises(BadParameterError, match="in memory already"):
        load_model(tiny_hf("llama"), stream=True)
    with pytest.raises(BadParameterError, match="trust_remote_code"):
        load_model(folder, stream=True, trust_remote_code=True)


def shard_with(folder: Path, name: str) -> Path:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return folder / index["weight_map"][name]


UP = "model.layers.1.mlp.up_proj.weight"


def test_a_missing_shard_is_named(folder) -> None:
    shard_with(folder, UP).unlink()
    with pytest.raises(WeightsError, match=r"model-0000\d-of-\d+.safetensors is missing"):
        load_model(folder, stream=True)


def test_a_truncated_shard_is_named(folder) -> None:
    path = shard_with(folder, UP)
    os.truncate(path, path.stat().st_size - 7)
    with pytest.raises(WeightsError, match=path.name):
        load_model(folder, stream=True)


def test_a_damaged_header_is_named(folder) -> None:
    path = shard_with(folder, UP)
    path.write_bytes(b"\xff" * 40 + path.read_bytes()[40:])
    with pytest.raises(WeightsError, match=path.name):
        load_model(folder, stream=True)


def test_a_number_that_is_not_finite_is_named(folder) -> None:
    path = shard_with(folder, UP)
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\x00\x00\xc0\x7f")
    with pytest.raises(WeightsError, match=rf"{path.name}: 1 of \d+ numbers of model\.layers\.\S+ are NaN or infinite"):
        load_model(folder, stream=True)


@pytest.mark.parametrize("method", [cl.methods.ActivationPatching(), cl.methods.AttributionPatching(), cl.methods.PathPatching()])
def test_a_file_that_changes_in_the_middle_stops_the_run_and_leaves_no_thread(folder, method, monkeypatch) -> None:
    model, path = load_model(folder, stream=True), shard_with(folder, UP)
    batch, load = tiny_batch(model, 3), type(model.source).load

    def change_at_the_second_layer(source, layer, following=None):
        if layer == 1:
            os.utime(path)
        load(source, layer, following)

    monkeypatch.setattr(type(model.source), "load", change_at_the_second_layer)
    with pytest.raises(WeightsError, match=rf"{path.name} was written to after the model was loaded"):
        method(model, batch, get_metric("logit_diff"))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("circuitlab reads")]
    assert model.source.layer is None


def test_a_file_cut_short_in_the_middle_is_named(folder) -> None:
    model, path = load_model(folder, stream=True), shard_with(folder, UP)
    os.truncate(path, 200)
    with pytest.raises(WeightsError, match=rf"{path.name} ends inside|{path.name} was written to"):
        model.source.load(1)
    model.source.settle()


def test_a_replaced_file_is_noticed_before_a_run(folder) -> None:
    model, path = load_model(folder, stream=True), shard_with(folder, UP)
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    other.replace(path)
    with pytest.raises(WeightsError, match=rf"{path.name} was replaced or removed"):
        cl.methods.ActivationPatching()(model, tiny_batch(model, 3), get_metric("logit_diff"))


def test_weights_are_hashed_once_and_again_when_a_file_has_changed(folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CIRCUITLAB_CACHE", str(tmp_path / "cache"))
    for path in folder.glob("*.safetensors"):
        os.utime(path, (1e9, 1e9))  # files that were written just now are not remembered
    spec = load_model(folder, stream=True).spec
    model = load_model(folder, stream=True)
    assert model.spec == spec
    assert model._opened.first.sha256 is None  # remembered
    state = model._opened.skeleton.shards.state()
    assert remembered_hash(folder, state, "float32") == spec.weights
    assert remembered_hash(folder, {**state, "other": (1, 1, 1)}, "float32") is None
    with torch.no_grad():
        hf = tiny_hf("llama")
        hf.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    hf.save_pretrained(folder, max_shard_size="12KB")
    assert load_model(folder, stream=True).spec.weights != spec.weights
