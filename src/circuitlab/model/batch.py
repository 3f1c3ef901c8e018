"""ContrastBatch: aligned clean and corrupt prompts as token ids, with answers, foils and marked positions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import AlignmentError, BadParameterError, UnknownNameError
from circuitlab.core.provenance import TaskRef, digest
from circuitlab.model.token_rows import places, require_contrast, require_no_overlap, require_unpadded, token_rows, token_sets

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

__all__ = ["ContrastBatch"]


@dataclass(frozen=True, eq=False)
class ContrastBatch:
    """Pairs of prompts that differ only in what the task turns on.

    Parameters
    ----------
    clean, corrupt : Tensor of int, shape (pair, pos)
        Right-padded token ids; row i of both has the same length.
    mask : Tensor of bool, shape (pair, pos)
        True on real tokens.
    end : Tensor of int, shape (pair,)
        Position of the last real token, whose next-token logits are scored.
    marks : dict of str to Tensor of int, shape (pair,)
        Named positions; always holds ``"END"``.
    answers, foils, distractors : Tensor of int, shape (pair, k)
        Sets of token ids, padded with -1. The metric contrasts answers with foils; accuracy asks whether an answer beats
        every foil and distractor.
    task : TaskRef
        Identity of these prompts.
    metric : str
        Name of the metric the task asks for.
    text : tuple of (str, str), optional
        Clean and corrupt prompt of each pair, for display.
    templates : tuple of str, optional
        Name of each pair's template; pairs of one template have the same words around their slots, so that means over prompts can be
        taken template by template. Not part of the identity.
    reference : Tensor, shape (pair, vocab), optional
        Log-probabilities of the next token in the model's clean run, for metrics that compare with it. It depends on the model, so it is
        set by methods (`circuitlab.execute.with_reference`) and is not part of the identity.
    one_length : bool
        Whether prompts of different lengths must not share a pass, because rotary angles depend on the length of the prompt. Set by
        `circuitlab.execute.with_reference`; not part of the identity.
    """

    clean: Int[Tensor, "pair pos"]
    corrupt: Int[Tensor, "pair pos"]
    mask: Bool[Tensor, "pair pos"]
    end: Int[Tensor, " pair"]
    marks: Mapping[str, Int[Tensor, " pair"]]
    answers: Int[Tensor, "pair answer"]
    foils: Int[Tensor, "pair foil"]
    distractors: Int[Tensor, "pair distractor"]
    task: TaskRef
    metric: str = "logit_diff"
    text: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    templates: tuple[str, ...] = field(default=(), repr=False)
    reference: Float[Tensor, "pair vocab"] | None = field(default=None, repr=False)
    one_length: bool = False

    @classmethod
    def from_tokens(
        cls,
        clean: Iterable[Iterable[int]],
        corrupt: Iterable[Iterable[int]],
        answers: Iterable[Iterable[int] | int],
        foils: Iterable[Iterable[int] | int],
        *,
        marks: Mapping[str, Iterable[int]] | None = None,
        distractors: Iterable[Iterable[int] | int] | None = None,
    ) -> ContrastBatch:
        """Build a batch from token ids, without a tokenizer.

        Every argument may be a list, a tuple, a tensor, an array or a column of a table, and so may each of its rows.

        Parameters
        ----------
        clean, corrupt : sequences of token-id sequences
            Unpadded prompts. ``clean[i]`` and ``corrupt[i]`` have the same length; different pairs may have different lengths.
        answers, foils : sequences of token ids or of sets of token ids
            One entry per pair.
        marks : mapping of str to sequence of int, optional
            For each named mark, one position per pair.
        distractors : sequence of token ids or of sets of token ids, optional
            Further candidates that an answer must beat to count as correct.

        Raises
        ------
        AlignmentError
            If a clean and a corrupt prompt differ in length; the rows are named.
        BadParameterError
            If a token id is not a non-negative integer, the counts differ, a prompt or an answer set is empty, clean equals corrupt, an
            answer is also a foil or a distractor, prompts are padded on the left, or a mark lies outside its prompt. Whether ids and
            lengths fit a model is checked when the batch meets one (`circuitlab.model.inside.require_fit`).

        Notes
        -----
        For pairs without a contrast, as in checks that every effect is then 0, use ``dataclasses.replace(batch, corrupt=batch.clean)``.

        Examples
        --------
        >>> batch = ContrastBatch.from_tokens([[5, 6, 7]], [[5, 8, 7]], answers=[1], foils=[2], marks={"S2": [1]})
        >>> batch.n_pairs, batch.end.tolist(), sorted(batch.marks)
        (1, [2], ['END', 'S2'])
        """
        rows = token_rows("clean", clean), token_rows("corrupt", corrupt)
        sets = [token_sets("answers", answers), token_sets("foils", foils)]
        sets.append([[] for _ in rows[0]] if distractors is None else token_sets("distractors", distractors))
        _check_rows(*rows, *sets)
        named = _marks(marks or {}, [len(row) for row in rows[0]])
        identity = TaskRef(id="tokens", variant="none", version=0, n_pairs=len(rows[0]), seed=0, digest=digest([*rows, *sets, named]))
        return cls._pad(*rows, sets, named, identity)

    @classmethod
    def _pad(
        cls,
        clean: Sequence[Sequence[int]],
        corrupt: Sequence[Sequence[int]],
        sets: Sequence[Sequence[Sequence[int]]],
        marks: Mapping[str, Sequence[int]],
        task: TaskRef,
    ) -> ContrastBatch:
        import torch  # noqa: PLC0415 - keeps this module importable without torch

        lengths = torch.tensor([len(row) for row in clean])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        answers, foils, distractors = (torch.from_numpy(_rectangle(rows, -1)) for rows in sets)
        return cls(
            clean=torch.from_numpy(_rectangle(clean, 0)),
            corrupt=torch.from_numpy(_rectangle(corrupt, 0)),
            mask=mask,
            end=lengths - 1,
            marks={name: torch.tensor(list(positions)) for name, positions in marks.items()},
            answers=answers,
            foils=foils,
            distractors=distractors,
            task=task,
        )

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return int(self.clean.shape[0])

    def mark(self, name: str) -> Int[Tensor, " pair"]:
        """Position of a named mark in each pair; ``"S1+1"`` and ``"S1-1"`` are the positions after and before it.

        Raises
        ------
        UnknownNameError
            If no mark has this name.
        BadParameterError
            If the position lies outside a prompt.
        """
        beside = re.fullmatch(r"(.+?)([+-]\d+)", name)
        base, offset = (beside[1], int(beside[2])) if beside else (name, 0)
        if base not in self.marks:
            raise UnknownNameError("mark", name, self.marks)
        places = self.marks[base] + offset
        if bool(((places < 0) | (places > self.end)).any()):
            what = f"Mark {name!r} lies outside some prompts."
            raise BadParameterError(what, "Choose a position between the first token and END.")
        return places

    def select(self, pairs: Sequence[int]) -> ContrastBatch:
        """The same batch with only these pairs, in this order, and the identity of its new content."""
        import torch  # noqa: PLC0415

        index = torch.as_tensor(list(pairs), dtype=torch.long)
        if index.numel() == 0:
            raise BadParameterError("No pair was selected.", "Keep at least one pair.")
        longest = int(self.end[index].max()) + 1
        task = _replace_digest(self.task, [self.task.digest, index.tolist()], len(index))
        if index.tolist() == list(range(self.n_pairs)):
            task = self.task
        return replace(
            self,
            clean=self.clean[index, :longest],
            corrupt=self.corrupt[index, :longest],
            mask=self.mask[index, :longest],
            end=self.end[index],
            marks={name: positions[index] for name, positions in self.marks.items()},
            answers=self.answers[index],
            foils=self.foils[index],
            distractors=self.distractors[index],
            task=task,
            text=tuple(self.text[i] for i in index.tolist()) if self.text else (),
            templates=tuple(self.templates[i] for i in index.tolist()) if self.templates else (),
            reference=None if self.reference is None else self.reference[index.to(self.reference.device)],
        )

    def with_templates(self, names: Sequence[str]) -> ContrastBatch:
        """The same batch with the name of each pair's template; its identity does not change.

        Raises
        ------
        BadParameterError
            If there is not one name per pair.
        """
        if len(names) != self.n_pairs:
            what = f"{len(names)} templates were named for {self.n_pairs} pairs."
            raise BadParameterError(what, "Give one name per pair.")
        return replace(self, templates=tuple(names))

    def over_tokens(self) -> tuple[Int[Tensor, " token"], ContrastBatch]:
        """The tokens among answers and foils, and this batch with answers and foils as indices into them.

        For metrics that read only those logits: compute the logits of these tokens, and pass them to the metric with the second batch.
        """
        import torch  # noqa: PLC0415

        ids = torch.cat([self.answers.flatten(), self.foils.flatten()])
        ids = ids[ids >= 0].unique()
        answers, foils = (torch.where(part >= 0, torch.searchsorted(ids, part), -1) for part in (self.answers, self.foils))
        return ids, replace(self, answers=answers, foils=foils)

    def first_difference(self) -> Int[Tensor, " pair"]:
        """First position at which clean and corrupt differ, for each pair; the prompt's length where they are equal."""
        import torch  # noqa: PLC0415

        differs = (self.clean != self.corrupt) & self.mask
        return torch.where(differs.any(1), differs.int().argmax(1), self.end + 1)

    def chance(self) -> float:
        """Accuracy of a random guess among answers, foils and distractors, averaged over pairs."""
        right = (self.answers >= 0).sum(1).double()
        wrong = (self.foils >= 0).sum(1) + (self.distractors >= 0).sum(1)
        return float((right / (right + wrong)).mean())


def _replace_digest(task: TaskRef, content: object, n_pairs: int) -> TaskRef:
    """The same reference for other content."""
    import msgspec  # noqa: PLC0415

    return msgspec.structs.replace(task, digest=digest(content), n_pairs=n_pairs)


def _check_rows(
    clean: Sequence[Sequence[int]],
    corrupt: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    foils: Sequence[Sequence[int]],
    distractors: Sequence[Sequence[int]],
) -> None:
    """Raise for rows that cannot be valid, with their numbers."""
    counts = {"clean": len(clean), "corrupt": len(corrupt), "answers": len(answers), "foils": len(foils), "distractors": len(distractors)}
    if len(set(counts.values())) != 1 or not clean:
        what = f"A batch needs the same number of rows in each part and at least one; got {counts}."
        raise BadParameterError(what, "Give one clean, corrupt, answer and foil entry per pair.")
    if empty := [i for i, row in enumerate(clean) if not row]:
        raise BadParameterError(f"Prompts {empty[:5]} are empty.", "Give at least one token.")
    uneven = [i for i, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if len(a) != len(b)]
    if uneven:
        shown = ", ".join(f"row {i}: {len(clean[i])} and {len(corrupt[i])} tokens" for i in uneven[:5])
        what = f"{len(uneven)} of {len(clean)} pairs do not align ({shown})."
        raise AlignmentError(what, "Clean and corrupt prompts need equal token counts; drop these rows or change their words.")
    if lacking := [i for i, (a, f) in enumerate(zip(answers, foils, strict=True)) if not a or not f]:
        raise BadParameterError(f"Pairs {lacking[:5]} have no answer or no foil token.", "Give at least one of each for every pair.")
    require_contrast(clean, corrupt)
    require_no_overlap(answers, foils, "foils")
    require_no_overlap(answers, distractors, "distractors")
    require_unpadded(clean, corrupt)


def _marks(marks: Mapping[str, Iterable[int]], lengths: Sequence[int]) -> dict[str, list[int]]:
    """Positions by name, each inside its prompt, and END."""
    ends = [n - 1 for n in lengths]
    named = {}
    for name, values in marks.items():
        if re.search(r"[+-]\d+$", name) or not name:
            raise BadParameterError(f"{name!r} cannot be a mark.", "'S1+1' means the position after S1; choose another name.")
        named[name] = positions = places(name, values)
        bad = [i for i, n in enumerate(lengths) if i >= len(positions) or not 0 <= positions[i] < n]
        if bad or len(positions) != len(lengths):
            what = f"Mark {name!r} has {len(positions)} positions for {len(lengths)} prompts; rows {bad[:5]} fall outside."
            raise BadParameterError(what, "Give one position inside the prompt for each pair.")
    if named.get("END", ends) != ends:
        what = f"Mark 'END' is {named['END'][:5]}, and the prompts end at {ends[:5]}."
        raise BadParameterError(what, "END is always the last token; use another name for another position.")
    return {**named, "END": ends}


def _rectangle(rows: Sequence[Sequence[int]], fill: int) -> np.ndarray:
    out = np.full((len(rows), max(len(row) for row in rows)), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
