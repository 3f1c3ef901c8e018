"""What a law reports, how far scores are apart, and the error that lists the laws which failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import CircuitlabError

if TYPE_CHECKING:
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["LawError", "LawResult", "distance", "law_on_family", "raise_on_failure", "scores_apart", "unit"]


class LawError(CircuitlabError, AssertionError):
    """One or more laws do not hold."""


@dataclass(frozen=True, slots=True)
class LawResult:
    """One law on one subject.

    Parameters
    ----------
    name : str
        What was checked.
    ok : bool
        Whether ``value`` is within ``tolerance``.
    value, tolerance : float
        Measured deviation and the largest allowed.
    detail : str
        More to know when it fails.
    """

    name: str
    ok: bool
    value: float
    tolerance: float
    detail: str = ""

    def __str__(self) -> str:
        sign = "<=" if self.ok else ">"
        return f"{self.name}: {self.value:.3g} {sign} {self.tolerance:.3g}" + (f" ({self.detail})" if self.detail and not self.ok else "")


def raise_on_failure(subject: str, results: list[LawResult]) -> list[LawResult]:
    """Return the results, or raise `LawError` naming each law that failed."""
    failed = [result for result in results if not result.ok]
    if failed:
        what = f"{subject} breaks {len(failed)} of {len(results)} laws: " + "; ".join(map(str, failed)) + "."
        raise LawError(what, "Compare with a run through plain hooks on the same model.")
    return results


def law_on_family(name: str, family: str, value: float, tolerance: float, detail: str = "") -> LawResult:
    """A law of methods on a tiny model of a family."""
    return LawResult(name=f"{name} [{family}]", ok=bool(value <= tolerance), value=value, tolerance=tolerance, detail=detail)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference; not a number, and so within no tolerance, where either is not."""
    return float(np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64)).max(initial=0.0))


def unit(scores: HeadScores) -> float:
    """The size that rounding is measured against: the largest score or metric value, at least 1."""
    largest = max(float(np.abs(scores.values(part)).max(initial=0.0)) for part in scores.parts)
    return max(1.0, largest, 0.0 if scores.weights_only else float(np.abs(scores.dataset["clean"].values).max()))


def scores_apart(first: HeadScores, second: HeadScores, pairs: Sequence[int] | None = None, *, parts: bool = True) -> float:
    """The largest difference in any score or metric value; ``pairs`` of the first are those that the second holds, in its order."""
    named = [*(first.parts if parts else ()), *(() if first.weights_only else ("clean", "corrupt"))]
    rows = slice(None) if pairs is None else list(pairs)
    return max(distance(first.dataset[name].values[rows], second.dataset[name].values) for name in named)
