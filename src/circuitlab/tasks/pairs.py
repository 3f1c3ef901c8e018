"""Sampling: a task's deterministic stream of prompt pairs. The first n of a longer draw are the same pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from circuitlab.core.errors import TaskFileError, UnknownNameError
from circuitlab.tasks.load import load_pools, load_task, task_file, tasks_folder
from circuitlab.tasks.sources import Context, draw_rows
from circuitlab.tasks.spec import Example, PairSource, Task, Variant
from circuitlab.tasks.templates import ParsedTemplate, Row, fill, fill_set, parse

__all__ = ["Sampler", "sample_pairs"]

_PATIENCE = 2000
"""Draws without a new pair after which the stream counts as exhausted."""


def sample_pairs(
    task: Task | str | Path,
    *,
    variant: str | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> Iterator[Example]:
    """Prompt pairs of a task, each different from all before it, until the task has no more.

    Parameters
    ----------
    task : Task, str or Path
        A task, its id, or its file.
    variant : str, optional
        Name of the corruption; the task's default if not given.
    seed : int
        Seed of the random draws; seed 0 leaves pairs that are written out in their order.
    folder : Path, optional
        Folder of tables and ``pools.toml``, for a task made in memory; if not given, where it was read from, or the task folder.

    Returns
    -------
    iterator of Example
        The pairs; the first n of a longer draw are the same pairs.

    Raises
    ------
    UnknownNameError, TaskFileError
        If the variant does not exist or the task cannot produce a pair.
    """
    return Sampler(task, variant=variant, folder=folder).draw(seed)


class Sampler:
    """A task with one variant, checked and ready to draw from. Parameters and errors are those of `sample_pairs`."""

    def __init__(self, task: Task | str | Path, *, variant: str | None = None, folder: Path | None = None) -> None:
        if isinstance(task, Task):
            self.task, self._folder = task, folder or (Path(task.folder) if task.folder else tasks_folder())
        else:
            self.task, self._folder = load_task(task), task_file(task).parent
        self.variant_name = variant or self.task.default_variant
        if self.variant_name not in self.task.variants:
            raise UnknownNameError(f"variant of task {self.task.id!r}", self.variant_name, self.task.variants)
        self.variant: Variant = self.task.variants[self.variant_name]
        self._templates = {} if self.finite else self._parse_templates()
        self._swap = {mark: parse(text, f"swap of {self.variant_name!r}") for mark, text in self.variant.swap.items()}
        self._corrupt = None if self.variant.corrupt is None else parse(self.variant.corrupt, f"corrupt of {self.variant_name!r}")

    @property
    def finite(self) -> bool:
        """Whether the pairs are written out instead of drawn at random."""
        return isinstance(self.task.source, PairSource)

    def _parse_templates(self) -> dict[str, ParsedTemplate]:
        texts = self.variant.templates or self.task.templates
        if unknown := set(self.variant.only) - {template.name for template in texts}:
            raise UnknownNameError(f"template in only of {self.variant_name!r}", min(unknown), {t.name for t in texts})
        templates = [t for t in texts if not self.variant.only or t.name in self.variant.only]
        parsed = {t.name: parse(t.text, f"template {t.name!r} of task {self.task.id!r}") for t in templates}
        if not parsed:
            what = f"Task {self.task.id!r} has no template."
            raise TaskFileError(what, "Add a [[templates]] entry.")
        mark_sets = {tuple(sorted(template.marks)) for template in parsed.values()}
        if len(mark_sets) > 1:
            what = f"Templates of task {self.task.id!r} carry different marks: {sorted(mark_sets)}."
            raise TaskFileError(what, "Give every template the same marks.")
        marks = next(iter(mark_sets))
        for mark in self.variant.swap:
            if mark not in marks:
                raise UnknownNameError(f"mark in swap of {self.variant_name!r}", mark, marks)
        if not self.variant.swap and self.variant.corrupt is None:
            what = f"Variant {self.variant_name!r} of task {self.task.id!r} changes nothing."
            raise TaskFileError(what, "Give it swap or corrupt.")
        return parsed

    def draw(self, seed: int) -> Iterator[Example]:
        """The stream of pairs for one seed. Pairs that are written out keep their order for seed 0 and are shuffled for every other."""
        if isinstance(self.task.source, PairSource):
            yield from _written_out(self.task.source, seed)
            return
        generator = random.Random(f"{self.task.id}/{self.variant_name}/{seed}")  # noqa: S311 - sampling, not security
        pools = {**load_pools(self._folder), **self.task.pools}
        context = Context(self.task.id, self._folder, pools, generator)
        seen: set[tuple[str, str]] = set()
        names = list(self._templates)
        misses = 0
        for row in draw_rows(self.variant.source or self.task.source, context):
            name = generator.choice(names)
            example = self._example(len(seen), name, row)
            if (example.clean, example.corrupt) in seen or example.clean == example.corrupt:
                misses += 1
                if misses >= _PATIENCE:
                    return
                continue
            misses = 0
            seen.add((example.clean, example.corrupt))
            yield example

    def _example(self, number: int, name: str, row: Row) -> Example:
        where = f"template {name!r} of task {self.task.id!r}"
        template = self._templates[name]
        clean, clean_marks = fill(template, row, where)
        corrupt, corrupt_marks = fill(self._corrupt or template, row, where, self._swap)
        if set(corrupt_marks) != set(clean_marks):
            what = f"The corrupt text of {self.variant_name!r} has marks {sorted(corrupt_marks)}, the clean one {sorted(clean_marks)}."
            raise TaskFileError(what, "Give both the same marks.")
        for side, text in (("clean", clean), ("corrupt", corrupt)):
            if not text.strip():
                what = f"The {side} prompt of {where} is empty ({text!r})."
                raise TaskFileError(what, "Write a text into the template.")
        sets = {key: self._texts(key, row) for key in ("answers", "foils", "distractors")}
        sets["distractors"] = tuple(w for w in sets["distractors"] if w not in {*sets["answers"], *sets["foils"]})
        if clash := set(sets["answers"]) & set(sets["foils"]):
            what = f"Task {self.task.id!r} names {sorted(clash)} both as answer and as foil of {clean!r}."
            raise TaskFileError(what, "Make the slots distinct.")
        if lacking := [key for key in ("answers", "foils") if not sets[key]]:
            what = f"Task {self.task.id!r} has no {lacking[0]} for {clean!r}."
            raise TaskFileError(what, "Every pair needs at least one answer and one foil.")
        return Example(number, name, clean, corrupt, clean_marks, corrupt_marks, **sets)

    def _texts(self, key: str, row: Row) -> tuple[str, ...]:
        """The answers, foils or distractors of a row."""
        override = getattr(self.variant, key)
        texts = fill_set(getattr(self.task, key) if override is None else override, row, f"{key} of task {self.task.id!r}")
        if blank := [text for text in texts if not text.strip()]:
            what = f"Task {self.task.id!r} has {blank[0]!r} among its {key}, which is blank."
            raise TaskFileError(what, "Fill the empty slot or text.")
        return texts


def _written_out(source: PairSource, seed: int) -> Iterator[Example]:
    """Pairs that are written out; rows are counted from 0, as in the table."""
    order = list(range(len(source.rows)))
    if seed:
        random.Random(seed).shuffle(order)  # noqa: S311 - an order, not security
    for number in order:
        pair = source.rows[number]
        texts = (pair.clean, pair.corrupt, pair.clean_marks, pair.corrupt_marks)
        yield Example(number, pair.template, *texts, pair.answers, pair.foils, pair.distractors)
