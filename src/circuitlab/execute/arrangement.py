"""How works that go through the layers of a model are arranged: one after another, or in step on a streamed model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from circuitlab.core.errors import ModelError
from circuitlab.core.in_step import ByLayer, drained, in_step
from circuitlab.execute.needs import is_streamed

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.model.streaming.source import LayerSource

__all__ = ["InStep", "InTurn", "Pairs", "arrangement_on", "is_allocation_failure"]

_Result = TypeVar("_Result")

Pairs: TypeAlias = list[int]
"""Indices of pairs in a batch."""


class InTurn:
    """Works one after another, each begun when the one before is done: only one of them is in memory."""

    def together(self, works: Iterable[ByLayer[_Result]]) -> ByLayer[list[_Result]]:
        """The results of works on the same chunk of pairs."""
        results: list[_Result] = []
        for work in works:
            result = yield from work
            results.append(result)
        return results

    def each(self, make: Callable[[Pairs], ByLayer[_Result]], chunks: Iterable[Pairs], name: str) -> Iterator[tuple[Pairs, _Result]]:
        """Chunks of pairs, each with the result of the work that ``make`` makes of it.

        A chunk for which memory cannot be allocated is halved, and its halves are run one after the other.

        Raises
        ------
        ModelError
            If memory cannot be allocated for a single pair; ``name`` names what was run.
        """
        for wave in self.waves(chunks):
            yield from self._halving(make, wave, name)

    def waves(self, chunks: Iterable[Pairs]) -> Iterable[list[Pairs]]:
        """Chunks that are in memory together."""
        return ([chunk] for chunk in chunks)

    def _halving(self, make: Callable[[Pairs], ByLayer[_Result]], wave: list[Pairs], name: str) -> Iterator[tuple[Pairs, _Result]]:
        try:
            results = self.of_wave([make(chunk) for chunk in wave])
        except (RuntimeError, MemoryError) as error:
            if not is_allocation_failure(error):
                raise
            smaller = _halves(wave, name, str(error))
        else:
            yield from zip(wave, results, strict=True)
            return
        for half in smaller:  # outside of the handler, whose traceback holds what was allocated
            yield from self._halving(make, half, name)

    def of_wave(self, works: list[ByLayer[_Result]]) -> list[_Result]:
        """Run works in one wave."""
        return [drained(work) for work in works]


@dataclass(frozen=True, eq=False)
class InStep(InTurn):
    """Works in step, so that a streamed model is read once for all of them.

    Parameters
    ----------
    source : LayerSource
        Where layers are read.
    fits : callable, optional
        Whether chunks of pairs fit in memory together; all do without it.
    """

    source: LayerSource
    fits: Callable[[list[Pairs]], bool] | None = None

    def together(self, works: Iterable[ByLayer[_Result]]) -> ByLayer[list[_Result]]:
        """The results of works on the same chunk of pairs."""
        return in_step(list(works))

    def waves(self, chunks: Iterable[Pairs]) -> Iterable[list[Pairs]]:
        """As many chunks together as fit in memory."""
        wave: list[Pairs] = []
        for chunk in chunks:
            if wave and self.fits is not None and not self.fits([*wave, chunk]):
                yield wave
                wave = []
            wave.append(chunk)
        if wave:
            yield wave

    def of_wave(self, works: list[ByLayer[_Result]]) -> list[_Result]:
        """Run works in one wave; afterwards nothing is being read."""
        try:
            return drained(in_step(works))
        finally:
            self.source.settle()


def is_allocation_failure(error: Exception) -> bool:
    """Whether an error says that memory could not be allocated, on the processor or on a device."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in ("can't allocate memory", "not enough memory", "out of memory", "failed to allocate"))


def _halves(wave: list[Pairs], name: str, text: str) -> list[list[Pairs]]:
    """Two smaller waves: half of the chunks each, or half of the pairs of a single chunk."""
    if len(wave) > 1:
        return [wave[: len(wave) // 2], wave[len(wave) // 2 :]]
    (chunk,) = wave
    if len(chunk) == 1:
        what = f"{name} could not allocate the memory for one pair: {text.splitlines()[0][:200]}"
        raise ModelError(what, "Use shorter prompts, prompts that differ later, or a machine with more memory.")
    return [[chunk[: len(chunk) // 2]], [chunk[len(chunk) // 2 :]]]


def arrangement_on(model: Model, fits: Callable[[list[Pairs]], bool] | None = None) -> InTurn:
    """In step on a streamed model, as far as chunks of pairs fit in memory together; one after another on a model in memory."""
    return InStep(model.source, fits) if is_streamed(model) else InTurn()  # type: ignore[attr-defined]
