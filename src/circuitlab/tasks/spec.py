"""The fields of a task file. Unknown fields are errors, so that a typo cannot change an experiment silently."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from circuitlab.core.errors import TaskFileError
from circuitlab.core.names import require_file_name
from circuitlab.core.provenance import digest
from circuitlab.tasks.own_pairs import OwnPair, PairTable, read_pairs

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
    """Slots that are drawn from named word lists.

    ``slots`` maps a slot to a pool of ``pools.toml`` or of the task's own ``pools``; the slots of each group in ``distinct`` get different
    words.
    """

    slots: dict[str, str]
    distinct: list[list[str]] = []


class TableSource(msgspec.Struct, tag="table", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """Rows of a CSV file beside the task file; each name in ``rows`` is a different row, whose cells are ``{name.column}``.

    ``answer`` is the column of the answers; rows that are drawn together differ in it. ``shots`` are rows, named by the value of their
    first column, that serve as fixed examples and are never drawn.
    """

    file: str
    answer: str
    rows: tuple[str, ...] = ("item", "other")
    shots: list[str] = []


class SequenceSource(msgspec.Struct, tag="sequence", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """Two windows of ``length`` items, each with its successor, from the same ordered pool: ``{c0} {c1} .. {c_next}`` and ``{x0} ..``."""

    pools: list[str]
    length: int = 3


class SumSource(msgspec.Struct, tag="sums", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """One-digit arithmetic: ``{a} {b} {result}``, a changed operand ``{b2}`` with ``{result2}``, and ``shots`` worked examples.

    Worked examples are ``{s0a} {s0b} {s0r}`` and so on; results are between 0 and 9. ``operation`` is ``+``, ``-`` or ``*``, or several of
    them (``+-``): each row then draws one, ``{sign}``, for its question and its examples.
    """

    operation: str
    shots: int = 3


class YearSource(msgspec.Struct, tag="years", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """A noun, three leading digits ``{decade}`` and a last digit ``{y}`` between 2 and 7; ``{low}`` is 0 or 1.

    ``{above}`` lists the digits greater than ``y``, ``{upto}`` all others.
    """

    nouns: str
    decades: str


class PairSource(msgspec.Struct, tag="pairs", tag_field="kind", frozen=True, forbid_unknown_fields=True):
    """Pairs that are written out, in the order of their table; see `Task.from_pairs`."""

    rows: tuple[OwnPair, ...]


DrawnSource = PoolSource | TableSource | SequenceSource | SumSource | YearSource
Source = DrawnSource | PairSource


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The text of a prompt. ``{slot}`` is filled in, ``{slot:MARK}`` also marks its last token, ``{slot|title}`` changes its form."""

    name: str
    text: str


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to corrupt a prompt.

    ``swap`` replaces the text at marked places (``{S2 = "{io}"}``); ``corrupt`` replaces the whole template text instead. Answers, foils,
    distractors, templates and source default to those of the task. ``only`` lists the templates to use, by name; all if it is empty.
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

    ``min_accuracy`` is the gate; if it is not given, the gate is halfway between chance and 1. With ``known``, only pairs are kept for
    which the model ranks the answer first among its candidates; the reported accuracy is measured before this filter.
    """

    min_accuracy: float | None = None
    known: bool = False

    def __post_init__(self) -> None:
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise TaskFileError(f"min_accuracy = {self.min_accuracy} is no share.", "Give a number from 0 to 1.")


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One task: a source of rows, templates that turn a row into prompts, and named corruptions.

    Parameters
    ----------
    id : str
        Name.
    version : int
        Version of the file.
    title : str
        Heading in figures.
    about : str
        What the task measures.
    cite : list of str
        BibTeX keys of the papers that the task follows.
    licence : str
        Licence and origin of the wording and the word lists.
    source : Source
        Where the rows come from.
    templates : list of Template
        Texts that turn a row into a prompt; all carry the same marks.
    answers, foils, distractors : list of str
        Texts of the answers, of the wrong answers they are compared with, and of further candidates; with their leading space.
    variants : dict
        Corruptions by name.
    default_variant : str
        The one that is used by default.
    metric : str
        Default metric.
    checks : Checks
        Accuracy that a model must reach, and whether pairs it gets wrong are left out.
    pools : dict
        Word lists of this task alone.
    folder : str
        Where its tables lie, if it was read from a file outside the task folder. Not a field of the file.

    Raises
    ------
    TaskFileError
        If the id or the name of a variant cannot be a file name.
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
    folder: str = ""

    def __post_init__(self) -> None:
        # Figures, tables and the folder of a study are named after ids and variants.
        require_file_name("task id", self.id, TaskFileError)
        for variant in self.variants:
            require_file_name(f"variant of task {self.id!r}", variant, TaskFileError)

    @classmethod
    def from_pairs(cls, rows: PairTable, *, id: str | None = None, title: str | None = None, metric: str = "logit_diff") -> Task:  # noqa: A002
        """Make a task from your own pairs: a table in a file or in memory.

        Parameters
        ----------
        rows : str, Path, iterable of mappings, data frame or mapping of columns
            A ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, a data frame, a list of dictionaries, or a dictionary of columns:
            ``clean``, ``corrupt``, ``answer`` and ``foil`` (or ``answers`` and ``foils``: a list, or texts separated by ``|``). Mark a
            place in a prompt as ``[S2:John]``, or by a column ``S2`` that holds the word. ``distractors`` and ``template`` are optional.
            An answer that begins with a letter gets a leading space where it would otherwise run into the prompt's last word.
        id : str, optional
            Name of the task; if not given, the file's name, or a hash of the pairs.
        title : str, optional
            Heading in figures; the id if not given.
        metric : str
            Name of the metric that reads the logits.

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
        """The task as plain data, for digests: what it says, wherever it lies."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        del plain["folder"]
        return plain


class Example(msgspec.Struct, frozen=True):
    """One pair of prompts as text.

    Parameters
    ----------
    row : int
        Position in the task's stream of pairs, or in the table of pairs that are written out; from 0.
    template : str
        Name of the template.
    clean, corrupt : str
        The prompts.
    clean_marks, corrupt_marks : dict
        For each mark, the half-open character span of its slot.
    answers, foils, distractors : tuple of str
        Right answers, the wrong ones they are compared with, and further candidates.
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
