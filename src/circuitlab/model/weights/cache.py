"""The weights cache: its folder, entries that are written completely or not at all, and checks for damage."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from circuitlab.core.errors import WeightsError

__all__ = ["CacheEntry", "build_entry", "cache_dir", "digest_file", "finished_entry", "hash_file", "locked", "verified_entry"]

_RECORD = "circuitlab.json"
_OTHER_CACHE = "Ask its owner for access, or set CIRCUITLAB_CACHE to a folder of your own."


class CacheEntry(msgspec.Struct, frozen=True):
    """The record of a finished entry: its files with their sizes and digests, and the hash of its weights.

    Entries written by circuitlab 0.1 have no digests; they are checked once by the hash of their weights, and digests are added.

    Parameters
    ----------
    source_sha256 : str
        SHA-256 of the GGUF file that was converted.
    weights_sha256 : str
        Hash of the float32 weights (`circuitlab.model.identity.hash_weights`).
    sizes : dict of str to int
        Size in bytes of every file, by relative path.
    digests : dict of str to str
        BLAKE2b digest of every file.
    """

    source_sha256: str
    weights_sha256: str
    sizes: dict[str, int]
    digests: dict[str, str] = {}


def cache_dir() -> Path:
    """The folder of converted weights: ``$CIRCUITLAB_CACHE``, or the user's cache folder."""
    import platformdirs  # noqa: PLC0415

    chosen = os.environ.get("CIRCUITLAB_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("circuitlab"))


def finished_entry(folder: Path) -> CacheEntry | None:
    """The record of an entry whose files all exist with the right sizes, or None; contents are not read.

    Raises
    ------
    WeightsError
        If the entry cannot be read by this user.
    """
    entry, damage = _look(folder)
    return None if damage else entry


def verified_entry(folder: Path, fill: Callable[[Path], tuple[str, str]], weights_hash: Callable[[Path], str]) -> CacheEntry:
    """The entry of a folder, with every byte checked; a damaged entry is moved aside with a warning and built again.

    An undamaged entry is read without a lock, so that a read-only cache works.

    Parameters
    ----------
    folder : Path
        Folder of the entry.
    fill : callable
        Builds the entry, as in `build_entry`.
    weights_hash : callable
        Hash of the weights in a folder, for entries without digests; raises `WeightsError` if they cannot be loaded.

    Returns
    -------
    CacheEntry
        The record of the entry.

    Raises
    ------
    WeightsError
        If the entry cannot be read, or is missing or damaged and cannot be built.
    """
    entry, damage = _verify(folder, weights_hash)
    if entry is not None and not damage:
        return entry
    with locked(folder):
        entry, damage = _verify(folder, weights_hash)  # another process may have built it meanwhile
        if entry is not None and not damage:
            return entry
        if damage:
            _move_aside(folder, damage)
        for left in folder.parent.glob(
            f".{folder.name}.*/"
        ):  # builds that were killed; no process fills them now, because this one has the lock
            shutil.rmtree(left, ignore_errors=True)
        return build_entry(folder, fill)


def build_entry(folder: Path, fill: Callable[[Path], tuple[str, str]]) -> CacheEntry:
    """Let ``fill(temporary folder)`` write files and return (source hash, weights hash), then move the folder into place.

    Folder and files get the permissions that the umask allows.

    Raises
    ------
    WeightsError
        If the disk is full or the cache cannot be written; no partial entry is left behind.
    """
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = _new_folder(folder.parent, f".{folder.name}.")
        source, weights = fill(partial)
        files = {p.relative_to(partial).as_posix(): p for p in sorted(partial.rglob("*")) if p.is_file()}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        entry = CacheEntry(source, weights, sizes, {name: digest_file(path) for name, path in files.items()})
        (partial / _RECORD).write_bytes(msgspec.json.encode(entry))
        _set_permissions(partial)
        partial.replace(folder)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return entry


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on one entry, so that two processes that start at the same time convert it only once."""
    from filelock import FileLock  # noqa: PLC0415

    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_file(path: Path) -> str:
    """BLAKE2b (hex) of a file: 540 MB take 0.9 s (SHA-256: 1.5 s), so that an entry can be checked at every load."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _look(folder: Path) -> tuple[CacheEntry | None, list[str]]:
    """The record of an entry, and the names of its files whose sizes are wrong."""
    try:
        if not folder.is_dir():
            return None, []
        entry = msgspec.json.decode((folder / _RECORD).read_bytes(), type=CacheEntry)
        sizes = {name: (folder / name).stat().st_size if (folder / name).is_file() else None for name in entry.sizes}
    except PermissionError as error:
        raise _cannot_read(folder, error) from error
    except (OSError, msgspec.MsgspecError) as error:
        return None, [f"{_RECORD} ({error})"]
    return entry, [name for name, size in entry.sizes.items() if sizes[name] != size]


def _verify(folder: Path, weights_hash: Callable[[Path], str]) -> tuple[CacheEntry | None, list[str]]:
    """The record of an entry, and the names of its files whose contents have changed."""
    entry, damage = _look(folder)
    if entry is None or damage:
        return entry, damage
    try:
        if not entry.digests:
            return _verify_by_weights(folder, entry, weights_hash)
        return entry, [name for name, digest in entry.digests.items() if digest_file(folder / name) != digest]
    except PermissionError as error:
        raise _cannot_read(folder, error) from error
    except OSError as error:
        return entry, [str(error)]


def _verify_by_weights(folder: Path, entry: CacheEntry, weights_hash: Callable[[Path], str]) -> tuple[CacheEntry, list[str]]:
    """Check an entry without digests by its weights; if the cache can be written, add the digests for the next time."""
    try:
        actual = weights_hash(folder)
    except WeightsError as error:
        return entry, [error.what]
    if actual != entry.weights_sha256:
        return entry, [f"its weights have the hash {actual[:12]}, but {entry.weights_sha256[:12]} was recorded"]
    entry = CacheEntry(entry.source_sha256, actual, entry.sizes, {name: digest_file(folder / name) for name in entry.sizes})
    if os.access(folder, os.W_OK):
        fresh = folder / f"{_RECORD}.{secrets.token_hex(4)}"
        fresh.write_bytes(msgspec.json.encode(entry))
        fresh.replace(folder / _RECORD)
    return entry, []


def _move_aside(folder: Path, damage: list[str]) -> None:
    import warnings  # noqa: PLC0415

    try:
        aside = _new_folder(folder.parent, f"{folder.name}.damaged-")
        folder.replace(aside / folder.name)
    except OSError as error:
        what = f"Converted weights in {folder} are damaged ({', '.join(damage)}), and they cannot be moved aside: {error}."
        raise WeightsError(what, _OTHER_CACHE) from error
    warnings.warn(f"Converted weights in {folder} are damaged ({', '.join(damage)}); moved to {aside} and built again.", stacklevel=2)


def _new_folder(parent: Path, prefix: str) -> Path:
    """A new folder with the permissions that the umask allows; `tempfile.mkdtemp` would allow this user only."""
    folder = parent / f"{prefix}{secrets.token_hex(4)}"
    folder.mkdir()
    return folder


def _set_permissions(folder: Path) -> None:
    """Give everything in a folder the permissions of the folder itself, which follow the umask."""
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def _cannot_read(folder: Path, error: OSError) -> WeightsError:
    return WeightsError(f"Converted weights in {folder} cannot be read by this user: {error}.", _OTHER_CACHE)


def _cannot_write(folder: Path, error: OSError) -> WeightsError:
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return WeightsError(f"This user cannot write to the weights cache {folder.parent}: {error}.", _OTHER_CACHE)
    reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
    what = f"Could not write converted weights to {folder}: {reason}."
    return WeightsError(what, "Free about 1 GB, or set CIRCUITLAB_CACHE to another folder.")
