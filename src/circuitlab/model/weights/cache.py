"""The weights cache: where it is, and how an entry gets into it whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from circuitlab.errors import WeightsError

__all__ = ["CacheEntry", "build_entry", "cache_dir", "finished_entry", "hash_file", "locked"]

_RECORD = "circuitlab.json"


class CacheEntry(msgspec.Struct, frozen=True):
    """What a finished entry says about itself: the files it holds with their sizes, and the hash of its weights."""

    source_sha256: str
    weights_sha256: str
    sizes: dict[str, int]


def cache_dir() -> Path:
    """The folder of converted weights: ``$CIRCUITLAB_CACHE``, or the user's cache folder."""
    import platformdirs  # noqa: PLC0415

    chosen = os.environ.get("CIRCUITLAB_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("circuitlab"))


def finished_entry(folder: Path) -> CacheEntry | None:
    """The record of a whole entry, or None where there is none; a damaged one is moved aside and named in a warning."""
    record = folder / _RECORD
    if not folder.is_dir():
        return None
    try:
        entry = msgspec.json.decode(record.read_bytes(), type=CacheEntry)
        wrong = [name for name, size in entry.sizes.items() if not (folder / name).is_file() or (folder / name).stat().st_size != size]
    except (OSError, msgspec.MsgspecError) as error:
        wrong, entry = [f"{_RECORD} ({error})"], None
    if not wrong:
        return entry
    import warnings  # noqa: PLC0415

    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}.damaged-"))
    folder.replace(aside / folder.name)
    warnings.warn(f"Converted weights in {folder} are damaged ({', '.join(wrong)}); moved to {aside} and built again.", stacklevel=2)
    return None


def build_entry(folder: Path, fill: Callable[[Path], tuple[str, str]]) -> CacheEntry:
    """Let ``fill(temporary folder)`` write files and return (source hash, weights hash), then move the folder into place.

    Raises
    ------
    WeightsError
        If the disk is full or the cache cannot be written; nothing half-made is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        source, weights = fill(temporary)
        sizes = {p.relative_to(temporary).as_posix(): p.stat().st_size for p in sorted(temporary.rglob("*")) if p.is_file()}
        entry = CacheEntry(source, weights, sizes)
        (temporary / _RECORD).write_bytes(msgspec.json.encode(entry))
        temporary.replace(folder)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        what = f"Could not write converted weights to {folder}: {reason}."
        raise WeightsError(what, "Free about 1 GB, or set CIRCUITLAB_CACHE to another folder.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return entry


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on one entry, so that two processes starting at once convert it once."""
    from filelock import FileLock  # noqa: PLC0415

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        yield


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
