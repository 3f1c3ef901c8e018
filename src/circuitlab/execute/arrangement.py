"""How works that go through the layers of a model are arranged: one after another, or in step on a streamed model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from circuitlab.core.in_step import ByLayer, drained, in_step
from circuitlab.execute.needs import is_streamed

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.model.streaming.source import LayerSource

__all__ = ["InStep", "InTurn", "arrangement_on"]

_Result = TypeVar("_Result")


class InTurn:
    """Works one after another, each begun when the one before is done: only one of them is in memory."""

    def together(self, works: Iterable[ByLayer[_Result]]) -> ByLayer[list[_Result]]:
        """The results of works on the same chunk of pairs."""
        results: list[_Result] = []
        for work in works:
            result = yield from work
            results.append(result)
        return results

    def each(self, works: Iterable[ByLayer[_Result]]) -> Iterator[_Result]:
        """The results of works on different chunks of pairs."""
        return map(drained, works)


@dataclass(frozen=True, eq=False)
class InStep(InTurn):
    """Works in step, so that a streamed model is read once for all of them.

    Parameters
    ----------
    source : LayerSource
        Where layers are read.
    """

    source: LayerSource

    def together(self, works: Iterable[ByLayer[_Result]]) -> ByLayer[list[_Result]]:
        """The results of works on the same chunk of pairs."""
        return in_step(list(works))

    def each(self, works: Iterable[ByLayer[_Result]]) -> Iterator[_Result]:
        """The results of works on different chunks of pairs."""
        try:
            yield from drained(in_step(list(works)))
        finally:
            self.source.settle()


def arrangement_on(model: Model) -> InTurn:
    """In step on a streamed model, one after another on a model in memory."""
    return InStep(model.source) if is_streamed(model) else InTurn()  # type: ignore[attr-defined]
