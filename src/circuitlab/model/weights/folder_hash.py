"""The hash of the weights in a folder, remembered as long as its files do not change: hashing 16 GB takes a minute."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from circuitlab.core.files import read_bytes, replace_file
from circuitlab.model.weights.cache import cache_dir

__all__ = ["remember_hash", "remembered_hash"]

_SETTLED = 2.0
"""Seconds since the last write before a file's time is trusted: two writes within one tick of a file system's clock look like one."""


class _Record(msgspec.Struct, frozen=True):
    """A hash, and the size, time of the last write and inode of every file that it was computed from."""

    sha256: str
    files: dict[str, tuple[int, int, int]]


def remembered_hash(folder: Path, state: Mapping[str, tuple[int, int, int]], dtype: str) -> str | None:
    """The hash that `remember_hash` stored for these files, or None if there is none or a file has changed."""
    stored = read_bytes(_path(folder, dtype))
    if stored is None:
        return None
    try:
        record = msgspec.json.decode(stored, type=_Record)
    except msgspec.MsgspecError:
        return None  # the weights are hashed again, and the record is written anew
    return record.sha256 if record.files == dict(state) else None


def remember_hash(folder: Path, state: Mapping[str, tuple[int, int, int]], dtype: str, sha256: str) -> None:
    """Store the hash of a folder's weights in this dtype; files that were written just now, and a cache of others, are left alone."""
    newest = max(when for _, when, _ in state.values())
    path = _path(folder, dtype)
    parent = next(parent for parent in path.parents if parent.exists())
    if time.time_ns() - newest > _SETTLED * 1e9 and os.access(parent, os.W_OK):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: temporary.write_bytes(msgspec.json.encode(_Record(sha256, dict(state)))))


def _path(folder: Path, dtype: str) -> Path:
    key = hashlib.sha256(f"{folder.resolve()} {dtype}".encode()).hexdigest()[:24]
    return cache_dir() / "folder-hashes" / f"{key}.json"
