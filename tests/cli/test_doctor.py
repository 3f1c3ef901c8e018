"""``circuitlab doctor`` gives a verdict on any folder: exit code 0 or 2, never a traceback."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM

from circuitlab.methods import list_methods
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import tiny_hf

from .conftest import command


def verdict(folder) -> tuple[int, dict]:
    result = command("doctor", str(folder), "--json")
    assert "Traceback" not in result.err
    return result.code, json.loads(result.out)


@pytest.mark.parametrize(("family", "state"), [("llama", "exact"), ("gptj", "hooks"), ("deepseek_v3", "hooks")])
def test_a_folder_that_is_served(tmp_path, family, state) -> None:
    tiny_hf(family).save_pretrained(tmp_path)
    code, found = verdict(tmp_path)
    assert code == 0
    assert found["logits_ok"] is True
    assert set(found["sites"]) == {site.value for site in Site}
    assert set(found["methods"]) == set(list_methods())
    assert found["sites"]["z"]["state"] == found["methods"]["activation_patching"]["state"] == state
    for one in (*found["sites"].values(), *found["methods"].values()):
        assert one["state"] in {"exact", "hooks", "refused"}
        assert one["reason"] or one["state"] == "exact"


def encoder(folder) -> None:
    BertLMHeadModel(
        BertConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
    ).save_pretrained(folder)


def state_space(folder) -> None:
    MambaForCausalLM(MambaConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2)).save_pretrained(folder)


def weight_missing(folder) -> None:
    tiny_hf("llama").save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def no_numbers(folder) -> None:
    tiny_hf("llama").save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def nothing(folder) -> None:
    assert not list(folder.iterdir())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "says"),
    [(encoder, "decoder"), (state_space, "attention"), (weight_missing, "up_proj"), (no_numbers, "up_proj"), (nothing, "config.json")],
)
def test_a_folder_that_is_refused_has_the_same_shape_and_the_reason(tmp_path, make, says) -> None:
    make(tmp_path)
    code, found = verdict(tmp_path)
    assert code == 2
    assert found["logits_ok"] is False
    assert says in found["reason"]
    assert {one["state"] for one in (*found["sites"].values(), *found["methods"].values())} == {"refused"}
