"""The weights cache: entries are whole, checked byte by byte, open to whom the umask lets in, and healed when damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest
import torch

from circuitlab.core.errors import WeightsError
from circuitlab.model.aliases import ALIASES
from circuitlab.model.identity import hash_weights
from circuitlab.model.weights import cache as cache_module
from circuitlab.model.weights import resolve
from circuitlab.model.weights.cache import CacheEntry, build_entry, digest_file, finished_entry, locked
from circuitlab.testing.tiny import tiny_hf

ALIAS = "smollm2-135m"


@pytest.fixture
def built(tmp_path, monkeypatch) -> list[Path]:
    """An alias whose download is a tiny model: the list says how often it was converted."""
    monkeypatch.setenv("CIRCUITLAB_CACHE", str(tmp_path / "cache"))
    times: list[Path] = []

    def fetch(_alias, folder: Path) -> Path:
        (folder / "tiny.gguf").write_bytes(b"GGUF")
        return folder / "tiny.gguf"

    def convert(_gguf: Path, folder: Path) -> str:
        times.append(folder)
        model = tiny_hf("llama")
        model.save_pretrained(folder)
        return hash_weights(model)

    monkeypatch.setattr(resolve, "fetch_gguf", fetch)
    monkeypatch.setattr(resolve, "convert_gguf", convert)
    return times


def opened():
    return resolve.open_source(ALIAS, torch.float32)


def zero(path: Path) -> None:
    """Zero the last 4,000 bytes of a file; size and times stay what they were."""
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-4000] + bytes(4000))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def forget_digests(folder: Path) -> None:
    """Make an entry one of circuitlab 0.1."""
    record = folder / "circuitlab.json"
    fields = msgspec.json.decode(record.read_bytes())
    del fields["digests"]
    record.write_bytes(msgspec.json.encode(fields))


def test_an_entry_is_built_once_and_its_hash_is_that_of_the_weights(built) -> None:
    first, second = opened(), opened()
    assert len(built) == 1
    assert first.weights == second.weights == hash_weights(second.model) == hash_weights(tiny_hf("llama"))
    assert resolve.open_source(ALIAS, torch.float64).weights is None
    assert not list(resolve.fetch(ALIAS).glob("*.gguf"))


@pytest.mark.parametrize("record", ["with digests", "of version 0.1"])
def test_damaged_weights_of_the_same_size_are_named_moved_aside_and_built_again(built, record) -> None:
    folder, whole = resolve.fetch(ALIAS), opened().weights
    if record == "of version 0.1":
        forget_digests(folder)
    zero(folder / "model.safetensors")
    with pytest.warns(UserWarning, match=r"damaged \(.*; moved to .*damaged-.* and built again"):
        healed = opened()
    assert len(built) == 2
    assert healed.weights == whole == hash_weights(healed.model)
    assert len(list(folder.parent.glob(f"{folder.name}.damaged-*/{folder.name}/model.safetensors"))) == 1


@pytest.mark.parametrize("name", ["config.json", "circuitlab.json", "model.safetensors"])
def test_any_file_that_changed_or_is_gone_is_noticed(built, name) -> None:
    folder = resolve.fetch(ALIAS)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b"a", b"b", 1))
    with pytest.warns(UserWarning, match="damaged"):
        opened()
    (folder / name).unlink()
    with pytest.warns(UserWarning, match="damaged"):
        resolve.fetch(ALIAS)
    assert len(built) == 3


def test_an_undamaged_entry_of_version_0_1_is_kept_and_gets_digests(built) -> None:
    folder = resolve.fetch(ALIAS)
    forget_digests(folder)
    assert opened().weights == hash_weights(tiny_hf("llama"))
    assert len(built) == 1
    assert finished_entry(folder).digests["model.safetensors"] == digest_file(folder / "model.safetensors")


@pytest.mark.parametrize(("umask", "folder_mode", "file_mode"), [(0o022, 0o755, 0o644), (0o002, 0o775, 0o664), (0o077, 0o700, 0o600)])
def test_entries_honour_the_umask(tmp_path, umask, folder_mode, file_mode) -> None:
    def fill(temporary: Path) -> tuple[str, str]:
        (temporary / "inner").mkdir(mode=0o700)
        for path in (temporary / "model.safetensors", temporary / "inner" / "x"):
            path.write_bytes(b"1")
            path.chmod(0o600)
        return "source", "weights"

    before = os.umask(umask)
    try:
        build_entry(tmp_path / "cache" / "entry", fill)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "cache").rglob("*")}
    files = {"model.safetensors": file_mode, "x": file_mode, "circuitlab.json": file_mode}
    assert modes == files | {"entry": folder_mode, "inner": folder_mode}


def test_a_finished_entry_is_read_without_writing_anything(built, monkeypatch) -> None:
    folder = resolve.fetch(ALIAS)
    (folder.parent / f".{folder.name}.lock").unlink(missing_ok=True)

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    for name in ("mkdir", "chmod", "write_bytes", "replace", "unlink", "touch"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert opened().weights == hash_weights(tiny_hf("llama"))
    forget = msgspec.json.encode(CacheEntry("s", finished_entry(folder).weights_sha256, finished_entry(folder).sizes))
    with (folder / "circuitlab.json").open("wb") as record:
        record.write(forget)
    assert opened().weights == hash_weights(tiny_hf("llama"))
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}


def test_a_cache_that_cannot_be_read_or_written_says_so_and_stays_as_it_is(built, monkeypatch) -> None:
    folder = resolve.fetch(ALIAS)

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(WeightsError, match=f"{folder} cannot be read by this user"):
            opened()
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, "digest_file", refuse)
        with pytest.raises(WeightsError, match=f"{folder} cannot be read by this user"):
            opened()
    zero(folder / "model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr("filelock.FileLock.acquire", refuse)
        with pytest.raises(WeightsError, match=f"cannot write to the weights cache {folder.parent}"):
            opened()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda self, *_a, **options: None if options else refuse())
        with pytest.raises(WeightsError, match=r"damaged \(model\.safetensors\), and they cannot be moved aside"):
            opened()
    assert folder.is_dir()
    assert len(built) == 1
    shutil.rmtree(folder.parent)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(WeightsError, match=f"cannot write to the weights cache {folder.parent}.*CIRCUITLAB_CACHE"):
            opened()


def test_what_a_killed_build_left_is_cleared_by_the_next(built) -> None:
    folder = resolve.fetch(ALIAS)
    left = folder.parent / f".{folder.name}.0123abcd"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    opened()
    assert left.is_dir()
    shutil.rmtree(folder)
    opened()
    assert not left.exists()
    with locked(folder):
        assert {path.name for path in folder.parent.iterdir()} == {folder.name, f".{folder.name}.lock"}


def test_the_cache_names_entries_by_the_pinned_hash(built) -> None:
    assert resolve.fetch(ALIAS).name == f"{ALIAS}-{ALIASES[ALIAS].sha256[:12]}"
    assert resolve.cached_path(ALIAS) == resolve.fetch(ALIAS)
