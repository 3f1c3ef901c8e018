"""Reading roles off attention patterns: prompts, a few at a time, one pass shared by all roles that read the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.progress import step
from circuitlab.execute.needs import require
from circuitlab.methods.roles.contract import Role, role_provenance, running
from circuitlab.model.sites import Site
from circuitlab.scores.role_scores import RoleScores

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["Each", "PatternRole", "Reader", "ReadsPatterns", "RolePrompts", "read_together"]

_CHUNK = 2**26
"""Bytes that the patterns of one pass may take as 64-bit numbers; a pass is never less than one prompt."""
_HELD = 2**30
"""Bytes of patterns that may be kept from the first pass for later ones; where there are more, the prompts are run again."""
_ROUNDING = 4
"""Rounding of a mean of attention weights, in units of the last place of 1: less than that between value and control is no difference."""

Measure: TypeAlias = Callable[[slice, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(rows, pattern (row, layer, head, query, key), seen (1, layer, 1, query, key)) -> values and control, each (row, layer, head)."""


@dataclass(frozen=True, eq=False)
class RolePrompts:
    """What a role runs: prompts of one length.

    Parameters
    ----------
    tokens : ndarray of int, shape (row, pos)
        Token ids.
    sample : str
        What a row is, in the plural, for people.
    marked : ndarray of bool, shape (row, pos), optional
        Tokens of the kind that a role asks about.
    """

    tokens: np.ndarray
    sample: str
    marked: np.ndarray | None = None

    def plain(self) -> dict[str, Any]:
        """As plain data, of which a run is identified."""
        return {"tokens": self.tokens.tolist()} | ({} if self.marked is None else {"marked": self.marked.tolist()})


class Reader(Protocol):
    """Takes patterns a few prompts at a time, as often as its role says."""

    def add(self, which: int, rows: slice, pattern: np.ndarray, seen: np.ndarray) -> None:
        """Patterns (row, layer, head, query, key) of some prompts, in pass number ``which``; ``seen`` is (1, layer, 1, query, key)."""
        ...

    def result(self, rounding: float) -> tuple[np.ndarray, np.ndarray]:
        """Values and control, each (row, layer, head); ``rounding`` is that of one weight."""
        ...


@dataclass(eq=False)
class Each:
    """The reader of a role whose value of a prompt depends on that prompt's patterns alone."""

    measure: Measure
    _parts: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    def add(self, which: int, rows: slice, pattern: np.ndarray, seen: np.ndarray) -> None:  # noqa: ARG002 - there is one pass
        """Measure some prompts."""
        values, control = self.measure(rows, pattern, seen)
        self._parts.append((values, np.broadcast_to(control, values.shape)))

    def result(self, rounding: float) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002 - nothing is divided by what could be rounding
        """All prompts."""
        values, control = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return values, control


class PatternRole(Role, Protocol):
    """A role that is read off attention patterns.

    Class variables
    ---------------
    passes : int
        How often its reader must see every prompt.
    """

    passes: ClassVar[int]

    def prompts(self, model: Model) -> RolePrompts:
        """What it runs on this model; raises `BadParameterError` where the model can run none."""
        ...

    def reader(self, prompts: RolePrompts) -> Reader:
        """A fresh reader of these prompts."""
        ...


class ReadsPatterns:
    """What roles read off attention patterns share: their call, and what they ask of a model."""

    sites: ClassVar[tuple[Site, ...]] = (Site.PATTERN,)
    passes: ClassVar[int] = 1

    def inputs(self: Any, model: Model) -> dict[str, Any]:
        """The token ids that are run."""
        plain: dict[str, Any] = self.prompts(model).plain()
        return plain

    def __call__(self: Any, model: Model) -> RoleScores:
        """Measure every head.

        Raises
        ------
        ModelError
            If the model has no attention patterns, or lacks what else the role needs.
        BadParameterError
            If the model can run none of the prompts.
        """
        return read_together(model, [self])[0]


def read_together(model: Model, roles: Sequence[PatternRole]) -> list[RoleScores]:
    """Scores of several roles that read the same prompts, in one run of the model.

    Parameters
    ----------
    model : Model
    roles : sequence of PatternRole
        At least one; their `PatternRole.prompts` hold the same tokens.

    Raises
    ------
    ModelError
        If the model lacks what one of them needs; before anything is run.
    BadParameterError
        If their prompts differ.
    """
    with running(model):
        for role in roles:
            require(role, model)
        prompts = [role.prompts(model) for role in roles]
        tokens = prompts[0].tokens
        if any(not np.array_equal(one.tokens, tokens) for one in prompts):
            raise BadParameterError("The roles read different prompts.", "Read those together whose prompts are the same.")
        readers = [role.reader(one) for role, one in zip(roles, prompts, strict=True)]
        rounding = 0.0
        passes = max(role.passes for role in roles)
        source = _Source(model, tokens, again=passes > 1)
        for which in range(passes):
            asking = [reader for role, reader in zip(roles, readers, strict=True) if which < role.passes]
            for rows, pattern, eps in source():
                rounding = _ROUNDING * eps
                seen = np.any(pattern > 0, axis=(0, 2), keepdims=True)
                for reader in asking:
                    reader.add(which, rows, pattern, seen)
                step(which * len(tokens) + rows.stop, passes * len(tokens))
    return [_scores(model, *each, rounding) for each in zip(roles, prompts, readers, strict=True)]


class _Source:
    """Patterns of prompts, a few prompts at a time: from the model, and after a first pass from memory where they fit.

    Keys after the query are not kept: their weights are exactly 0 in a causal model, which is looked at.
    """

    def __init__(self, model: Model, tokens: np.ndarray, *, again: bool) -> None:
        self._model, self._tokens, self._again = model, tokens, again
        self._kept: list[tuple[slice, Tensor]] = []
        self._complete = False

    def __call__(self) -> Iterator[tuple[slice, np.ndarray, float]]:
        """Patterns of some prompts at a time, as 64-bit numbers, and the unit in the last place of their own."""
        import torch  # noqa: PLC0415 - listing roles must not load torch

        for rows, pattern in self._from_memory() if self._complete else self._from_model():
            yield rows, pattern.double().cpu().numpy(), torch.finfo(pattern.dtype).eps
        self._complete = bool(self._kept)

    def _from_memory(self) -> Iterator[tuple[slice, Tensor]]:
        length = self._tokens.shape[1]
        for rows, kept in self._kept:
            pattern = kept.new_zeros(*kept.shape[:-1], length, length)
            pattern[..., *_below(length)] = kept
            yield rows, pattern

    def _from_model(self) -> Iterator[tuple[slice, Tensor]]:
        keeps, size = self._again, 0
        for rows, pattern in _patterns(self._model, self._tokens):
            kept = pattern[..., *_below(pattern.shape[-1])] if keeps else pattern[:0]
            size += kept.numel() * kept.element_size()
            keeps = keeps and size <= _HELD and not bool(pattern.triu(1).any())
            self._kept = [*self._kept, (rows, kept)] if keeps else []
            yield rows, pattern


def _below(length: int) -> tuple[Tensor, Tensor]:
    """Queries and keys on the diagonal and below."""
    import torch  # noqa: PLC0415

    queries, keys = torch.tril_indices(length, length)
    return queries, keys


def _patterns(model: Model, tokens: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
    """Patterns of some prompts at a time."""
    import torch  # noqa: PLC0415 - listing roles must not load torch

    spec, (rows, length) = model.spec, tokens.shape
    size = max(1, _CHUNK // (8 * spec.n_layers * spec.n_heads * length**2))
    for first in range(0, rows, size):
        some = slice(first, min(first + size, rows))
        yield some, model.capture(torch.tensor(tokens[some]), [Site.PATTERN])[Site.PATTERN]


def _scores(model: Model, role: PatternRole, prompts: RolePrompts, reader: Reader, rounding: float) -> RoleScores:
    """Values and control, told apart only where they differ by more than rounding."""
    values, control = reader.result(rounding)
    same = np.abs(values - control) <= rounding * np.maximum(1.0, np.abs(values))
    about = role_provenance(role, model, prompts.sample, prompts.plain())
    return RoleScores(values, about, np.where(same, values, control))
