"""Files on disk: written completely or not at all, with the permissions that the umask allows, and moved to quarantine when damaged."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from circuitlab.core.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["free_name", "quarantine", "read_bytes", "remove_leftovers", "replace_file", "require_writable"]

_PART = ".part"
_cleaned: set[Path] = set()
"""Folders in which this process has looked for leftovers."""


def replace_file(path: Path, fill: Callable[[Path], object]) -> None:
    """Let ``fill(temporary_path)`` write a temporary file beside ``path``, then move it into place in one step.

    Raises
    ------
    StoreError
        On any operating-system error (full disk, no permission); the temporary file is removed and ``path`` untouched.
    """
    temporary, held = "", -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        candidate = str(path.parent / f".{path.name}.{secrets.token_hex(4)}{_PART}")
        # Not tempfile, whose files only their owner may read: a shared store follows the umask and the folder's own rules.
        held = os.open(candidate, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        temporary = candidate
        _lock(held)
        fill(Path(temporary))
        with Path(temporary).open("rb+") as file:
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror or error)
        what = f"Could not write {path}: {reason}."
        raise StoreError(what, "Nothing was changed; free some space or choose another folder, then run again.") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if held >= 0:
            os.close(held)


def remove_leftovers(folder: Path, *, older_than: float = 60.0) -> list[Path]:
    """Remove the temporary files of writers that were killed, which nobody else would.

    Parameters
    ----------
    folder : Path
        Its own files are looked at, not those of folders in it.
    older_than : float
        Seconds since the file was last written. A writer that is alive holds a lock on its file, so that age alone removes nothing; a
        writer has no lock yet in the moment after it made the file.

    Returns
    -------
    list of Path
        The files that were removed. A file that this user may not open or remove is left. Where the system has no such locks, nothing is
        removed.
    """
    removed = []
    for path in sorted(folder.glob(f".*{_PART}")):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= older_than and _abandoned(path):
                path.unlink()
                removed.append(path)
    return removed


def _lock(descriptor: int) -> bool:
    """Take the lock of an open file without waiting; false if another process holds it, or the system has none."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return False
    return True


def _abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR)
    try:
        return _lock(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path) -> bytes | None:
    """A file's content, or None if there is no file.

    Raises
    ------
    StoreError
        If this user may not read the file. Such a file is not damaged, so it is left where it is.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror or error}."
        raise StoreError(what, "Ask its owner for permission to read it, or use a store of your own (CIRCUITLAB_STORE).") from error


def require_writable(folder: Path) -> None:
    """Create the folder if it does not exist, then write and remove an empty file in it; leftovers of killed writers are removed.

    Called before a long computation, so that an unwritable store is reported before any work is done.

    Raises
    ------
    StoreError
        If the folder cannot be created or written.
    """
    probe = folder / f".{secrets.token_hex(4)}{_PART}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        probe.unlink()
    except OSError as error:
        what = f"The store {folder} cannot be written: {error.strerror or error}."
        raise StoreError(what, "Nothing was computed; choose another store (CIRCUITLAB_STORE), or free space and permissions.") from error
    if folder not in _cleaned:
        _cleaned.add(folder)
        remove_leftovers(folder)


def quarantine(files: Iterable[Path], folder: Path, problem: str) -> None:
    """Move damaged files into a folder, without overwriting what is there, and warn with the name of the first and what is wrong with it.

    Files that do not exist are skipped.

    Raises
    ------
    StoreError
        If this user may not move them.
    """
    damaged = list(files)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in damaged:
            if path.exists():
                path.replace(free_name(folder / path.name))
    except OSError as error:
        what = f"Stored run {damaged[0]} is damaged ({problem}), and cannot be moved to {folder}: {error.strerror or error}."
        raise StoreError(what, "Ask the store's owner to remove it, or use a store of your own (CIRCUITLAB_STORE).") from error
    warnings.warn(f"Stored run {damaged[0]} was moved to {folder} and will be computed again: {problem}", stacklevel=4)


def free_name(path: Path) -> Path:
    """The path itself if there is nothing, else with the first number from 2 on that makes it free."""
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
