"""What config.json tells: only decoder language models get as far as their weights, and no number in it can hang the loader."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers as hf

from circuitlab.core.errors import ModelError, WeightsError
from circuitlab.model.weights.resolve import open_source
from circuitlab.testing.tiny import tiny_hf

SHARED = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
GPT2 = {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, **TOKENS}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
BART = {"vocab_size": 48, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
BART |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
TEXT = SHARED | TOKENS | {"num_key_value_heads": 2, "head_dim": 8}
LLAMA4 = TEXT | {"intermediate_size_mlp": 40, "num_local_experts": 2}
LLAMA4_VISION = VISION | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}

NO_DECODER = {
    "bert": (lambda: hf.BertForMaskedLM(hf.BertConfig(**SHARED)), "bert is an encoder"),
    "bert with a causal head": (lambda: hf.BertLMHeadModel(hf.BertConfig(**SHARED)), "bert is an encoder"),
    "roberta": (lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**SHARED)), "roberta is an encoder"),
    "xlnet": (lambda: hf.XLNetLMHeadModel(hf.XLNetConfig(vocab_size=48, d_model=32, n_layer=2, n_head=4)), "xlnet is an encoder"),
    "t5": (lambda: hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=48, d_model=32, d_kv=8, num_layers=2, num_heads=4)),
           "t5 is an encoder-decoder"),
    "bart": (lambda: hf.BartForConditionalGeneration(hf.BartConfig(**BART)), "bart is an encoder-decoder"),
    "mamba": (lambda: hf.MambaForCausalLM(hf.MambaConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2)), "has no attention heads"),
    "rwkv": (lambda: hf.RwkvForCausalLM(hf.RwkvConfig(vocab_size=48, hidden_size=32, num_hidden_layers=2)), "rwkv has no attention heads"),
    "jamba": (lambda: hf.JambaForCausalLM(hf.JambaConfig(**SHARED, **TOKENS, num_key_value_heads=2, attn_layer_period=2,
                                                         attn_layer_offset=1, num_experts=2, use_mamba_kernels=False)),
              r"layer 0 is 'linear_attention' and has no attention heads \(1 of 2 layers\)"),
    "classifier": (lambda: hf.LlamaForSequenceClassification(hf.LlamaConfig(**SHARED, **TOKENS)), "as LlamaForSequenceClassification"),
    "tagger": (lambda: hf.GPT2ForTokenClassification(hf.GPT2Config(**GPT2)), "saved as GPT2ForTokenClassification"),
    "vit": (lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION)), "vit has no language-modelling decoder"),
    "gemma3 with images": (lambda: hf.Gemma3ForConditionalGeneration(hf.Gemma3Config(text_config=TEXT, vision_config=VISION)),
                           r"gemma3 consists of several networks \(text_config, vision_config\)"),
    "llava": (lambda: hf.LlavaForConditionalGeneration(hf.LlavaConfig(
        text_config=SHARED | TOKENS | {"model_type": "llama"}, vision_config=VISION | {"model_type": "clip_vision_model"})),
              "llava consists of several networks"),
}  # fmt: skip


def refused(folder: Path, message: str, kind: type[ModelError] = ModelError) -> None:
    with pytest.raises(kind, match=message):
        open_source(str(folder), torch.float32)


@pytest.mark.parametrize("name", NO_DECODER)
def test_what_is_no_decoder_is_refused_before_its_weights_are_looked_for(tmp_path, name) -> None:
    build, message = NO_DECODER[name]
    build().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    refused(tmp_path / "model", message)
    assert "torchvision" not in sys.modules


def test_a_bert_that_was_made_a_decoder_loads(tmp_path) -> None:
    hf.BertLMHeadModel(hf.BertConfig(**SHARED, is_decoder=True)).save_pretrained(tmp_path / "model")
    assert type(open_source(str(tmp_path / "model"), torch.float32).model).__name__ == "BertLMHeadModel"


def test_the_text_model_of_a_multimodal_folder_loads_where_transformers_has_it(tmp_path) -> None:
    torch.manual_seed(0)
    whole = hf.Llama4ForConditionalGeneration(hf.Llama4Config(text_config=LLAMA4, vision_config=LLAMA4_VISION)).eval()
    whole.save_pretrained(tmp_path / "model")
    text = open_source(str(tmp_path / "model"), torch.float32).model
    assert type(text).__name__ == "Llama4ForCausalLM"
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.allclose(text(ids).logits, whole(input_ids=ids).logits, atol=1e-6)


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_hf("llama").save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def edit(folder: Path, **fields) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


@pytest.mark.parametrize("field", ["num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True, None, [], 10**13], ids=repr)
def test_counts_are_whole_positive_numbers(folder, field, value) -> None:
    if value == []:
        refused(edit(folder, **{field: [2, 0]}), f"{field} = 0")
    else:
        refused(edit(folder, **{field: value}), f"has {field} = ")


def test_counts_are_checked_under_a_family_s_own_names(tmp_path) -> None:
    tiny_hf("gpt2").save_pretrained(tmp_path / "gpt2")
    refused(edit(tmp_path / "gpt2", n_head=0), "n_head = 0")
    refused(edit(tmp_path / "gpt2", n_head=4, n_layer=10**9), "n_layer = 1000000000")


HUGE = [
    ({"num_hidden_layers": 99_999}, "num_hidden_layers = 99999, but only 30 tensors are stored"),
    ({"hidden_size": 10**6}, "describes a model of .* numbers, but only"),
    ({"vocab_size": 10**9}, "describes a model of .* numbers, but only"),
    ({"intermediate_size": 10**9}, "describes a model of .* numbers, but only"),
    ({"head_dim": 10**8}, "describes a model of .* numbers, but only"),
]


@pytest.mark.parametrize(("fields", "message"), HUGE)
def test_a_config_that_describes_far_more_than_is_stored_takes_no_memory_and_no_time(folder, fields, message) -> None:
    began = time.perf_counter()
    refused(edit(folder, **fields), message, WeightsError)
    assert time.perf_counter() - began < 10


def test_other_numbers_that_do_not_fit_are_refused_in_our_own_words(folder) -> None:
    refused(edit(folder, num_key_value_heads=3), "4 query heads cannot share 3 key/value heads")
    refused(edit(folder, num_key_value_heads=2, hidden_act="no such function"), "no such function")
    refused(edit(folder, hidden_act="silu", rope_parameters={"rope_type": "none of these", "rope_theta": 1.0}), "config.json")


def test_quantised_folders_are_refused_with_the_method(folder) -> None:
    for method in ("bitsandbytes", "gptq", "compressed-tensors", "no such method"):
        refused(edit(folder, quantization_config={"quant_method": method, "bits": 4}), f"quantised weights .*{method}")
    edit(folder, quantization_config=None)
    assert open_source(str(folder), torch.float32).name == "tiny"


@pytest.mark.parametrize("field", ["_attn_implementation", "attn_implementation", "_experts_implementation"])
@pytest.mark.parametrize("value", ["someone/kernel", "someone/kernel@v1:fn", {"": "eager", "text_config": "someone/kernel"}], ids=str)
def test_kernels_from_a_hub_are_refused(folder, field, value) -> None:
    refused(edit(folder, **{field: value}), "requests the compute kernel 'someone/kernel")


def test_a_folder_that_asks_for_a_fused_kernel_by_its_plain_name_runs_eager(folder) -> None:
    assert open_source(str(edit(folder, attn_implementation="sdpa")), torch.float32).model.config._attn_implementation == "eager"


def test_a_config_that_cannot_be_read_is_named(folder) -> None:
    config = folder / "config.json"
    whole = config.read_text()
    for text in ("", "{", "[]", "\xff\xfe", "[" * 100_000, whole.replace('"llama"', '"no_such_family"'), whole.replace('"llama"', "7")):
        config.write_text(text, encoding="latin-1")
        refused(folder, str(config))
    config.unlink()
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, r"no config\.json.* holds a PEFT adapter.*apply the adapter with peft")
    config.write_text(whole)
    refused(folder, "holds an adapter .* beside a whole model")
