"""Task: what one task file says. Unknown fields are errors, so that a typo cannot change an experiment silently."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from circuitlab.core.errors import TaskFileError
from circuitlab.core.names import require_file_name
from circuitlab.core.provenance import digest
from circuitlab.tasks.own_pairs import OwnPair, PairRows, read_pairs

__all__ = [
    "Checks",
    "DrawnSource",
    "Example",
    "PairSource",
    "PoolSource",
    "SequenceSource",
    "SumSource",
    "TableSource",
    "Task",
    "Template",
    "Variant",
    "YearSource",
]


class PoolSource(msgspec.Struct, tag="pools", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """Slots drawn one by one from named word lists.

    ``slots`` maps a slot to a pool of ``pools.toml`` (or to one listed in the task's own ``pools``); the slots of each group in
    ``distinct`` get different words. ``many`` maps a slot that holds a list to ``[pool, count]``.
    """

    slots: dict[str, str]
    distinct: list[list[str]] = []


class TableSource(msgspec.Struct, tag="table", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """Rows of a CSV file beside the task file; each name in ``rows`` is a different row, read as ``{name.column}``.

    ``answer`` names the column that holds answers; rows drawn together differ in it. ``shots`` rows are fixed examples
    (by the value of the first column) that are never drawn.
    """

    file: str
    answer: str
    rows: tuple[str, ...] = ("item", "other")
    shots: list[str] = []


class SequenceSource(msgspec.Struct, tag="sequence", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """Two windows of ``length`` items and their successors from the same ordered pool: ``{c0} {c1} .. {c_next}`` and ``{x0} ..``."""

    pools: list[str]
    length: int = 3


class SumSource(msgspec.Struct, tag="sums", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """One-digit arithmetic: ``{a} {b} {result}``, a changed operand ``{b2}`` with ``{result2}``, and ``shots`` worked examples.

    Examples are ``{s0a} {s0b} {s0r}`` and so on; results stay between 0 and 9. ``operation`` is ``+``, ``-`` or ``*``, or several of
    them (``+-``), of which each row draws one, ``{sign}``, for its examples as well.
    """

    operation: str
    shots: int = 3


class YearSource(msgspec.Struct, tag="years", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """A noun, three leading digits ``{decade}`` and a last digit ``{y}`` between 2 and 7; ``{low}`` is 0 or 1.

    ``{above}`` and ``{upto}`` are the lists of digits greater than ``y`` and not greater than it.
    """

    nouns: str
    decades: str


class PairSource(msgspec.Struct, tag="pairs", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """Pairs that are written out, in their order; see `Task.from_pairs`."""

    rows: tuple[OwnPair, ...]


DrawnSource = PoolSource | TableSource | SequenceSource | SumSource | YearSource
Source = DrawnSource | PairSource


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt text. ``{slot}`` is filled in, ``{slot:MARK}`` also names its last token, ``{slot|title}`` changes its form."""

    name: str
    text: str


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to corrupt a prompt.

    ``swap`` gives new text for marked places (``{S2 = "{io}"}``); ``corrupt`` gives a whole other template text instead. Answers,
    foils, distractors, templates and source default to those of the task.
    """

    about: str
    swap: dict[str, str] = {}
    corrupt: str | None = None
    answers: list[str] | None = None
    foils: list[str] | None = None
    distractors: list[str] | None = None
    templates: list[Template] | None = None
    source: DrawnSource | None = None
    only: list[str] = []


class Checks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a model counts as able to do the task.

    ``min_accuracy`` is the gate (halfway between chance and 1 where it is not given). With ``known``, pairs are kept only if the
    model ranks the answer first among its candidates; the accuracy that is reported is from before that.
    """

    min_accuracy: float | None = None
    known: bool = False


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task: a source of rows, templates that turn a row into prompts, and named corruptions.

    Parameters
    ----------
    id, version, title, about
        Identity and what it measures.
    cite : list of str
        BibTeX keys of the papers the task follows.
    licence : str
        Of wording and word lists, with their origin.
    source, templates, answers, foils, distractors
        Rows and texts; answer strings carry their leading space.
    variants, default_variant
        Corruptions by name.
    metric : str
        Metric asked for by default.
    checks : Checks
        Gate and filter.
    pools : dict
        Word lists of this task alone.

    Raises
    ------
    TaskFileError
        If the id or a variant's name could not be the name of a file.
    """

    id: str
    version: int
    title: str
    about: str
    cite: list[str]
    licence: str
    source: Source
    templates: list[Template]
    answers: list[str]
    foils: list[str]
    variants: dict[str, Variant]
    default_variant: str
    distractors: list[str] = []
    metric: str = "logit_diff"
    checks: Checks = Checks()
    pools: dict[str, list[str]] = {}

    def __post_init__(self) -> None:
        # Ids and variants become names of files: figures, tables and the folder of a study are called after them.
        require_file_name("task id", self.id, TaskFileError)
        for variant in self.variants:
            require_file_name(f"variant of task {self.id!r}", variant, TaskFileError)

    @classmethod
    def from_pairs(cls, rows: PairRows, *, id: str | None = None, title: str | None = None, metric: str = "logit_diff") -> Task:  # noqa: A002
        """A task from pairs of one's own: a table in a file or in memory.

        Parameters
        ----------
        rows : str, Path, iterable of mappings, data frame or columns
            A ``.csv``, ``.tsv`` or ``.jsonl`` file, a data frame, a list of dictionaries, or a dictionary of columns: ``clean``,
            ``corrupt``, ``answer`` and ``foil`` (or ``answers`` and ``foils``; several are a list, or separated by ``|``). Places are
            marked in the prompts as ``[S2:John]``, or by a column of that name that holds the word. ``distractors`` and ``template`` are
            optional. A space is put before an answer that begins with a letter where it would run into the prompt's last word.
        id : str, optional
            Name of the task; the file's name, or a hash of the pairs, otherwise.
        title : str, optional
            Heading in figures; the id otherwise.
        metric : str
            How logits are read.

        Raises
        ------
        TaskFileError
            If a file cannot be read or a row cannot be used; the message names the row.

        Examples
        --------
        >>> rows = [{"clean": "The capital of [PLACE:France] is", "corrupt": "The capital of [PLACE:Spain] is", "answer": "Paris",
        ...          "foil": "Madrid"}]
        >>> Task.from_pairs(rows, id="two_capitals").source.rows[0].answers
        (' Paris',)
        """
        pairs = tuple(read_pairs(rows))
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(rows).stem).strip("-") if isinstance(rows, str | Path) else ""
        name = id or stem or f"pairs-{digest(msgspec.to_builtins(pairs))[:8]}"
        return cls(
            id=name,
            version=1,
            title=title or name,
            about="Pairs of one's own.",
            cite=[],
            licence="not stated",
            source=PairSource(pairs),
            templates=[],
            answers=[],
            foils=[],
            variants={"given": Variant(about="The corrupt prompts that were given.")},
            default_variant="given",
            metric=metric,
        )

    def identity(self) -> dict[str, Any]:
        """The task as plain data, for digests."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class Example(msgspec.Struct, frozen=True):
    """One pair of prompts as text.

    ``clean_marks`` and ``corrupt_marks`` map a mark to the half-open character span of its slot. ``row`` is the position in the
    task's stream.
    """

    row: int
    template: str
    clean: str
    corrupt: str
    clean_marks: dict[str, tuple[int, int]]
    corrupt_marks: dict[str, tuple[int, int]]
    answers: tuple[str, ...]
    foils: tuple[str, ...]
    distractors: tuple[str, ...]
