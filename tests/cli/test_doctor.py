"""``circuitlab doctor`` gives a verdict on any folder: exit code 0 or 2, never a traceback."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, BertConfig, BertLMHeadModel, MambaConfig, MambaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from circuitlab.core.errors import ModelError
from circuitlab.methods import list_methods
from circuitlab.model import load_model
from circuitlab.model.sites import Site
from circuitlab.testing.families import ALL_FAMILIES, REFUSED_FAMILIES, configuration
from circuitlab.testing.further_families import FURTHER
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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", REFUSED_FAMILIES)
def test_a_family_that_is_refused_says_why_it_is(tmp_path, family) -> None:
    hf = tiny_hf(family)
    with pytest.raises(ModelError) as refused:
        load_model(hf)
    whys = ("no list of layers on one residual stream", "looks ahead", "Input language unknown")
    assert any(why in str(refused.value) for why in whys)
    hf.save_pretrained(tmp_path)
    code, found = verdict(tmp_path)
    assert (code, found["logits_ok"], found["family"]) == (2, False, hf.config.model_type)
    assert any(why in found["reason"] for why in (*whys, "attend to later ones"))


@pytest.mark.filterwarnings("ignore")
def test_every_causal_language_model_of_transformers_is_on_the_page_or_refused(tmp_path) -> None:
    """What has no tiny configuration is refused by its config.json alone: it consists of several networks, or is an encoder-decoder."""
    known = {type(configuration(family)) for family in (*ALL_FAMILIES, *REFUSED_FAMILIES)}
    others = [kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if CONFIG_MAPPING[kind] not in known]
    others = [kind for kind in others if CONFIG_MAPPING[kind].sub_configs.get("text_config") not in known]
    assert len(known) > len(others) > 0
    for kind in others:
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": kind}), encoding="utf-8")
        code, found = verdict(folder)
        assert (code, found["family"]) == (2, kind)
        assert any(why in found["reason"] for why in ("several networks", "encoder-decoder", "cannot be used")), found["reason"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.by_turns(8)
@pytest.mark.parametrize("family", FURTHER)
def test_a_folder_of_any_family_obeys_the_laws_or_is_refused(tmp_path, family) -> None:
    tiny_hf(family).save_pretrained(tmp_path)
    code, found = verdict(tmp_path)
    states = {one["state"] for one in (*found["sites"].values(), *found["methods"].values())}
    if code == 0:
        assert found["laws"]
        assert states - {"refused"}
    else:
        assert (code, states) == (2, {"refused"})
        assert any(why in found["reason"] for why in ("attention heads", "several networks", "no language-modelling decoder"))
