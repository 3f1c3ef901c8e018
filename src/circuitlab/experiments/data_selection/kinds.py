"""The tasks: groups of kinds of circuitlab's passages, and which passages stand for the task, measure it, and can be selected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError
from circuitlab.model.prompts import read_prompts
from circuitlab.texts import load_texts

if TYPE_CHECKING:
    import numpy as np

    from circuitlab.model.protocol import Model

__all__ = ["TASKS", "Split", "passages", "split"]

TASKS = {
    "code": ("python", "javascript", "c", "rust", "java", "go", "haskell", "typescript", "c++", "lisp", "r", "assembly"),
    "data": ("json", "html", "xml", "yaml", "csv", "tsv", "table", "timetable", "toml", "css"),
    "other languages": (
        "french", "spanish", "german", "italian", "portuguese", "dutch", "latin", "polish", "swedish", "turkish", "finnish",
    ),
    "verse": ("poem", "haiku", "limerick", "nursery rhyme", "lyrics", "song"),
    "directions": ("recipe", "instructions", "manual", "knitting pattern", "sewing", "first aid"),
    "stories": ("narrative", "fable", "fairy tale", "myth", "ghost story"),
    "conversation": ("dialogue", "chat", "interview", "transcript", "screenplay"),
    "letters": ("letter", "email", "complaint", "apology"),
    "knowledge": ("science", "astronomy", "physics", "chemistry", "biology", "geography", "encyclopedia"),
    "law and business": ("legal", "contract", "terms of service", "finance", "invoice", "minutes", "economics"),
    "mathematics": ("math word problem", "proof", "logic puzzle", "numbers"),
    "reports": ("news", "sports", "weather", "obituary"),
}  # fmt: skip
"""Kinds of passages by task; passages of other kinds can be selected, too, and are never right."""

_SHORTEST = 24


@dataclass(frozen=True)
class Split:
    """Passages by number, for each task those that stand for it and those that measure it, and all others to select from.

    Parameters
    ----------
    tasks : tuple of str
        Names.
    rows : tuple of tuple of int
        Token ids of all passages.
    labels : tuple of int
        Number of each passage's task; -1 for none.
    examples, held : tuple of tuple of int
        For each task, passages by number.
    pool : tuple of int
        Passages that can be selected: neither examples nor held out.
    between : tuple of int
        Tokens between passages in a prompt.
    """

    tasks: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    labels: tuple[int, ...]
    examples: tuple[tuple[int, ...], ...]
    held: tuple[tuple[int, ...], ...]
    pool: tuple[int, ...]
    between: tuple[int, ...] = ()


def passages(model: Model, length: int) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...], tuple[int, ...]]:
    """The first tokens of all of circuitlab's passages without a BOS token, their tasks by number, and the tokens of an empty line."""
    texts = load_texts()
    number = {kind: i for i, kinds in enumerate(TASKS.values()) for kind in kinds}
    ids = read_prompts([text.text for text in texts], model.tokenizer, model.spec).ids
    bos = None if model.tokenizer is None else model.tokenizer.bos_token_id
    bare = [row[1:] if row[0] == bos else row for row in ids]
    kept = [i for i, row in enumerate(bare) if len(row) >= _SHORTEST]
    between = () if model.tokenizer is None else tuple(model.tokenizer.encode("\n\n", add_special_tokens=False))
    return tuple(bare[i][:length] for i in kept), tuple(number.get(texts[i].kind, -1) for i in kept), between


def split(
    tasks: Sequence[str],
    rows: Sequence[tuple[int, ...]],
    labels: Sequence[int],
    rng: np.random.Generator,
    n: int,
    between: tuple[int, ...] = (),
) -> Split:
    """Draw ``n`` examples and ``n`` held-out passages of every task; all others can be selected.

    Raises
    ------
    BadParameterError
        If a task has too few passages.
    """
    examples, held, taken = [], [], set()
    for number, task in enumerate(tasks):
        own = [i for i, label in enumerate(labels) if label == number]
        if len(own) <= 2 * n:
            what = f"Task {task!r} has {len(own)} passages; {n} examples, {n} held out and some to select are more."
            raise BadParameterError(what, "Use fewer examples.")
        drawn = [own[i] for i in rng.permutation(len(own))[: 2 * n].tolist()]
        examples.append(tuple(drawn[:n]))
        held.append(tuple(drawn[n:]))
        taken |= set(drawn)
    pool = tuple(i for i in range(len(rows)) if i not in taken)
    return Split(tuple(tasks), tuple(rows), tuple(labels), tuple(examples), tuple(held), pool, tuple(between))
