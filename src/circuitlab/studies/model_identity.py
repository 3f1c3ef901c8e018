"""The identity of a study's model before it is loaded: a pinned name, or the hash of files."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from circuitlab.core.errors import ModelError
from circuitlab.core.provenance import digest
from circuitlab.model.aliases import ALIASES

__all__ = ["model_identity"]


def model_identity(model: str) -> str:
    """An alias or hub name unchanged; for a local file or folder the hash of its content.

    The hash of a folder covers names and bytes of all its files (weights, configuration, tokenizer), so that a model that was trained again
    has another identity, and a copy elsewhere has the same. Files are hashed once per process, unless their size or times change.

    Raises
    ------
    ModelError
        If a file cannot be read.
    """
    path = Path(model).expanduser()
    if model in ALIASES or not path.exists():
        return model
    try:
        if path.is_file():
            return f"sha256:{_hash(path)}"
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.relative_to(path).as_posix().startswith("."))
        return f"sha256:{digest({file.relative_to(path).as_posix(): _hash(file) for file in files})}"
    except OSError as error:
        what = f"{model} cannot be read: {error}."
        raise ModelError(what, "Check its permissions.") from error


def _hash(file: Path) -> str:
    stat = file.stat()
    return _hash_unchanged(file.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=4096)
def _hash_unchanged(file: Path, size: int, modified: int, changed: int) -> str:  # noqa: ARG001 - keys of the cache
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
