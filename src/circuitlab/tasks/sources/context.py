"""What a source draws from: the task's word lists, its folder, and its own random numbers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from circuitlab.core.errors import TaskFileError, UnknownNameError

__all__ = ["Context"]


@dataclass(frozen=True)
class Context:
    """What one draw of rows depends on besides its source.

    Parameters
    ----------
    task : str
        Id of the task, for messages.
    folder : Path
        Folder of the task file, from which tables are read.
    pools : dict of str to list of str
        Word lists by name: the shared ones and the task's own.
    random : random.Random
        Random numbers, seeded by task, variant and seed.
    """

    task: str
    folder: Path
    pools: dict[str, list[str]]
    random: random.Random

    def pool(self, name: str) -> list[str]:
        """The words of a pool.

        Raises
        ------
        UnknownNameError
            If no pool has this name.
        TaskFileError
            If the pool is empty, holds an empty word, or repeats a word.
        """
        if name not in self.pools:
            raise UnknownNameError(f"pool in task {self.task!r}", name, self.pools)
        words = self.pools[name]
        if not words:
            what = f"Pool {name!r} of task {self.task!r} is empty."
            raise TaskFileError(what, "Put at least one word into it.")
        if blank := [number for number, word in enumerate(words, start=1) if not word.strip()]:
            what = f"Pool {name!r} of task {self.task!r} has empty words (number {', '.join(map(str, blank[:5]))})."
            raise TaskFileError(what, "Fill them in, or take them out.")
        if len(set(words)) != len(words):
            repeated = sorted(word for word, count in Counter(words).items() if count > 1)
            what = f"Pool {name!r} of task {self.task!r} repeats {', '.join(repeated[:5])}."
            raise TaskFileError(what, "List every word once.")
        return words
