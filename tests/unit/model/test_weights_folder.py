"""Model folders: every weight comes out of the files, or the folder is refused with the file and the key."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from circuitlab.core.errors import ModelError, WeightsError
from circuitlab.model.weights.folder import stored_tensors
from circuitlab.model.weights.resolve import open_source
from circuitlab.testing.tiny import tiny_hf

UP = "model.layers.0.mlp.up_proj.weight"
SHARED = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def opened(folder: Path, dtype: torch.dtype = torch.float32):
    return open_source(str(folder), dtype)


def rewrite(folder: Path, **changes) -> Path:
    """Replace tensors of a folder by name (dots as ``__``); None removes one."""
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value(tensors[key]) if callable(value) else value
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def with_number(number: float):
    def change(value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        value.view(-1)[3] = number
        return value

    return change


@pytest.fixture
def folder(tmp_path) -> Path:
    tiny_hf("llama").save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.some(family=1, dtype=3)
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen2", "qwen3", "gemma2", "gemma3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_folder_is_the_model_that_was_saved(tmp_path, family, dtype) -> None:
    model = tiny_hf(family)
    model.save_pretrained(tmp_path / "tiny", max_shard_size="10KB")
    assert (tmp_path / "tiny" / "model.safetensors.index.json").is_file()
    found = opened(tmp_path / "tiny", dtype)
    assert (found.name, found.tokenizer, found.weights) == ("tiny", None, None)
    assert not found.model.training
    assert found.model.config._attn_implementation == "eager"
    expected = dict(model.named_parameters())
    assert {name: value.dtype for name, value in found.model.named_parameters()} == dict.fromkeys(expected, dtype)
    assert all(torch.equal(value, expected[name].to(dtype)) for name, value in found.model.named_parameters())


REFUSED = [
    ({UP: None}, rf"lacks 1 of the weights of LlamaForCausalLM: {UP}"),
    ({"model.embed_tokens.weight": None}, r"lacks 1 of the weights .*model\.embed_tokens\.weight"),
    ({"lm_head.weight": None}, r"lacks 1 of the weights .*lm_head\.weight"),
    ({"model.layers.3.mlp.up_proj.weight": torch.ones(40, 32)}, r"does not have: model\.layers\.3\.mlp\.up_proj\.weight"),
    ({UP: lambda value: value[:, :-1].contiguous()}, rf"{UP} is \(40, 31\), not \(40, 32\)"),
    ({UP: lambda value: value.t().contiguous()}, rf"{UP} is \(32, 40\), not \(40, 32\)"),
    ({UP: lambda value: (value * 40).to(torch.int8)}, rf"model\.safetensors holds '{UP}' as I8"),
    ({UP: lambda value: value.to(torch.float8_e4m3fn)}, rf"model\.safetensors holds '{UP}' as F8_E4M3"),
    ({"model.norm.weight": lambda value: value.to(torch.int64)}, r"holds 'model\.norm\.weight' as I64"),
    ({UP: with_number(float("nan"))}, rf"model\.safetensors: 1 of 1280 numbers of {UP} are NaN or infinite"),
    ({UP: with_number(-float("inf"))}, rf"model\.safetensors: 1 of 1280 numbers of {UP} are NaN or infinite"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_weights_that_are_not_those_of_the_config_are_named(folder, changes, message) -> None:
    rewrite(folder, **{name.replace(".", "__"): value for name, value in changes.items()})
    with pytest.raises(WeightsError, match=message):
        opened(folder)


def test_a_weight_too_large_for_the_dtype_is_not_called_damaged(folder) -> None:
    rewrite(folder, **{UP.replace(".", "__"): with_number(1e6)})
    with pytest.raises(WeightsError, match=rf"1 of 1280 numbers of {UP} are too large for float16.*dtype='bfloat16'"):
        opened(folder, torch.float16)
    assert opened(folder, torch.bfloat16).model.dtype == torch.bfloat16


def test_tied_embeddings_may_be_stored_once_and_a_bare_model_may_lack_its_tied_head(tmp_path) -> None:
    tied = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHARED, **TOKENS, tie_word_embeddings=True))
    tied.save_pretrained(tmp_path / "tied")
    assert "lm_head.weight" not in stored_tensors(tmp_path / "tied")
    model = opened(tmp_path / "tied").model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tied.model.save_pretrained(tmp_path / "bare")
    assert torch.equal(opened(tmp_path / "bare").model.lm_head.weight, tied.lm_head.weight)
    transformers.LlamaModel(transformers.LlamaConfig(**SHARED, **TOKENS)).save_pretrained(tmp_path / "untied")
    with pytest.raises(WeightsError, match=r"lacks 1 of the weights of LlamaForCausalLM: lm_head\.weight"):
        opened(tmp_path / "untied")


def test_buffers_that_old_checkpoints_carry_are_no_weights(folder) -> None:
    angles = {f"model__layers__{i}__self_attn__rotary_emb__inv_freq": torch.ones(4) for i in range(3)}
    rewrite(folder, **angles)
    assert opened(folder).model.config.num_hidden_layers == 3


@pytest.mark.parametrize("change", [None, lambda value: value[:-1].contiguous()], ids=["missing", "misshapen"])
def test_an_expert_that_is_missing_or_misshapen_is_named(tmp_path, change) -> None:
    config = transformers.MixtralConfig(**SHARED, **TOKENS, num_key_value_heads=2, num_local_experts=3)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    opened(tmp_path / "moe")
    rewrite(tmp_path / "moe", model__layers__1__block_sparse_moe__experts__0__w1__weight=change)
    with pytest.raises(WeightsError, match=r"model\.layers\.1\.mlp\.experts\.gate_up_proj"):
        opened(tmp_path / "moe")


@pytest.mark.parametrize("size", [0, 7, 1000, -1], ids=["empty", "no header", "cut in the header", "cut at the end"])
def test_a_file_that_is_cut_short_is_named(folder, size) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(WeightsError, match=rf"{weights} cannot be loaded \({weights.stat().st_size} bytes\)"):
        opened(folder)


def test_a_file_that_is_text_and_an_index_that_lies_are_named(folder, tmp_path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    first = sorted(set(whole["weight_map"].values()))[0]
    for name, message in (("../tiny/model.safetensors", "not a safetensors file of its folder"), ("pytorch_model.bin", "not a safetensors"),
                          (7, "names 7, which is not a"), ("gone.safetensors", "gone.safetensors is missing")):  # fmt: skip
        index.write_text(json.dumps({"weight_map": whole["weight_map"] | {"lm_head.weight": name}}))
        with pytest.raises(WeightsError, match=message):
            opened(tmp_path / "shards")
    index.write_text("{")
    with pytest.raises(WeightsError, match="not an index of safetensors files"):
        opened(tmp_path / "shards")
    index.write_text(json.dumps(whole))
    (tmp_path / "shards" / first).unlink()
    with pytest.raises(WeightsError, match=f"{first} is missing"):
        opened(tmp_path / "shards")
    (folder / "model.safetensors").write_text("hello, I am no tensor file")
    with pytest.raises(WeightsError, match=r"model\.safetensors cannot be loaded"):
        opened(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(WeightsError, match=r"holds other\.safetensors but neither"):
        opened(folder)


def test_a_tokenizer_that_is_damaged_is_named(folder) -> None:
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    for text in ("{", '{"model": {"type": "none of these"}}', "[]"):
        (folder / "tokenizer.json").write_text(text)
        with pytest.raises(ModelError, match=f"The tokenizer in {folder} cannot be loaded"):
            opened(folder)


def test_loading_starts_no_process_and_asks_nothing(folder, monkeypatch) -> None:
    def refuse(*_arguments, **_options):
        pytest.fail("A process was started, or a question asked.")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr("os.system", refuse)
    monkeypatch.setattr("builtins.input", refuse)
    assert opened(folder).name == "tiny"


CODE = """
import pathlib
pathlib.Path({flag!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_folder_runs_only_where_it_is_trusted_by_name(folder, tmp_path) -> None:
    flag = tmp_path / "ran"
    (folder / "own.py").write_text(CODE.format(flag=str(flag)))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    script = f"import torch; from circuitlab.model.weights.resolve import open_source; open_source({str(folder)!r}, torch.float32)"
    done = subprocess.run([sys.executable, "-c", script], input="yes\n" * 9, capture_output=True, text=True, check=False)
    assert "needs its own code (own.OwnConfig, own.OwnModel) for model_type 'own'" in done.stderr
    assert done.stdout == ""
    assert not flag.exists()
    model = open_source(str(folder), torch.float32, trust_remote_code=True).model
    assert type(model).__name__ == "OwnModel"
    assert flag.read_text() == "ran"


def test_code_beside_a_family_that_transformers_knows_does_not_run(folder, tmp_path) -> None:
    flag = tmp_path / "ran"
    (folder / "own.py").write_text(CODE.format(flag=str(flag)))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "own.OwnModel"}}))
    (other / "tokenizer.json").write_text("{}")
    (other / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["own.A", "own.B"]}}))
    script = OPEN_BOTH.format(model=str(folder), tokenizer=str(other))
    done = subprocess.run([sys.executable, "-c", script], input="yes\n" * 9, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert not flag.exists()
    assert "model: opened" in done.stderr
    assert "tokenizer: The tokenizer in" in done.stderr


OPEN_BOTH = """
import sys, torch
from circuitlab.core.errors import CircuitlabError
from circuitlab.model.weights.resolve import open_source
for where, folder in (("model", {model!r}), ("tokenizer", {tokenizer!r})):
    try:
        open_source(folder, torch.float32)
        print(f"{{where}}: opened", file=sys.stderr)
    except CircuitlabError as error:
        print(f"{{where}}: {{error}}", file=sys.stderr)
"""
