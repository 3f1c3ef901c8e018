"""Damaged files of a store are moved out of the way and named; nothing is deleted."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from circuitlab.errors import StoreError

__all__ = ["move_aside"]


def move_aside(files: Iterable[Path], aside: Path, problem: str) -> None:
    """Move the files that exist into a folder, under free names, and warn with the first one's name and what is wrong with it.

    Raises
    ------
    StoreError
        If this user may not move them.
    """
    moved = list(files)
    try:
        aside.mkdir(parents=True, exist_ok=True)
        for old in moved:
            if old.exists():
                old.replace(_free_name(aside / old.name))
    except OSError as error:
        what = f"Stored run {moved[0]} is damaged ({problem}), and cannot be moved to {aside}: {error.strerror or error}."
        raise StoreError(what, "Ask the store's owner to remove it, or use a store of your own (CIRCUITLAB_STORE).") from error
    warnings.warn(f"Stored run {moved[0]} was moved to {aside} and will be computed again: {problem}", stacklevel=4)


def _free_name(path: Path) -> Path:
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
