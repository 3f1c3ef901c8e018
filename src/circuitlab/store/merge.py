"""Bring the results of several stores together, as after the shards of a study ran on machines without a shared file system."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from circuitlab.core.errors import ScoreFileError, StoreError
from circuitlab.core.files import read_bytes, replace_file, require_writable
from circuitlab.store.cache import Cache
from circuitlab.store.codecs import EDGE_SCORES, HEAD_SCORES, Documents

__all__ = ["MergeResult", "merge_stores"]

_NOT_RESULTS = {"locks", "partial", "damaged"}
"""Folders of a store that hold no finished results."""


class MergeResult(msgspec.Struct, frozen=True):
    """What a merge did: how many results were copied and how many were there already, and damaged files, left where they are."""

    copied: int
    present: int
    damaged: list[str]


def merge_stores(sources: Sequence[Cache], target: Cache) -> MergeResult:
    """Copy every result of some stores that another one lacks; nothing is replaced, and the sources are not changed.

    A result's name is the hash of everything it depends on, so that equal names are equal results. Every file is read before it is copied.

    Parameters
    ----------
    sources : sequence of Cache
        Stores to copy from.
    target : Cache
        Store to copy to.

    Raises
    ------
    StoreError
        If a source is no folder, is the target itself, or may not be read, or the target cannot be written.
    """
    for source in sources:
        if not source.root.is_dir():
            raise StoreError(f"There is no store {source.root}.", "Give the folders that the shards wrote to (--store).")
        if source.root.resolve() == target.root.resolve():
            raise StoreError(f"{source.root} cannot be merged into itself.", "Name another store with --store.")
    require_writable(target.root)
    copied, present, damaged = 0, 0, []
    for source in sources:
        for files in _results(source.root):
            if problem := _problem(files[0]):
                damaged.append(f"{files[0]}: {problem}")
            elif (target.root / files[0].relative_to(source.root)).exists():
                present += 1
            else:
                for path in reversed(files):  # a sidecar first: scores that are there are complete
                    _copy(path, target.root / path.relative_to(source.root))
                copied += 1
    return MergeResult(copied, present, damaged)


def _results(root: Path) -> Iterator[tuple[Path, ...]]:
    """The files of every result: scores with their sidecars, then documents by kind; run ids of cells last, which point to scores."""
    for path in sorted(root.glob("*.nc")):
        yield tuple(file for file in HEAD_SCORES.files(path) if file.exists())
    folders = [folder for folder in root.iterdir() if folder.is_dir() and folder.name not in _NOT_RESULTS and folder.name[0] != "."]
    for folder in sorted(folders, key=lambda folder: (folder.name == "cells", folder.name)):
        for path in sorted(folder.glob("*.json")):
            yield (path,)


def _problem(path: Path) -> str:
    """What is wrong with the file of a result; empty if it can be read."""
    try:
        if path.suffix == ".nc":
            codec = EDGE_SCORES if path.name.endswith(EDGE_SCORES.suffix) else HEAD_SCORES
            codec.read(path, path.name.removesuffix(codec.suffix))
            return codec.problem(path)
        Documents(path.parent.name).read(path, {})
    except ScoreFileError as error:
        return str(error)
    return ""


def _copy(path: Path, target: Path) -> None:
    data = read_bytes(path)
    if data is None:
        raise StoreError(f"{path} has gone while its store was read.", "Merge again when nothing else changes that store.")
    replace_file(target, lambda temporary: temporary.write_bytes(data))
