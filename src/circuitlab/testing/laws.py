"""Results of laws, distances between scores, and the error that lists the laws that failed."""

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
    """A law does not hold."""


@dataclass(frozen=True, slots=True)
class LawResult:
    """The result of one law on one method, model or intervention.

    Parameters
    ----------
    name : str
        The law.
    ok : bool
        Whether ``value`` is within ``tolerance``.
    value, tolerance : float
        Measured deviation, and the largest allowed.
    detail : str
        Shown when the law fails.
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
    """The result of a law of methods on a tiny model of a family."""
    return LawResult(name=f"{name} [{family}]", ok=bool(value <= tolerance), value=value, tolerance=tolerance, detail=detail)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The largest absolute difference; NaN, which is within no tolerance, if either has a NaN."""
    return float(np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64)).max(initial=0.0))


def unit(scores: HeadScores) -> float:
    """The scale of rounding errors: the largest absolute score or metric value, at least 1."""
    largest = max(float(np.abs(scores.values(part)).max(initial=0.0)) for part in scores.parts)
    return max(1.0, largest, 0.0 if scores.weights_only else float(np.abs(scores.dataset["clean"].values).max()))


def scores_apart(first: HeadScores, second: HeadScores, pairs: Sequence[int] | None = None, *, parts: bool = True) -> float:
    """The largest difference in any score or metric value; ``second`` holds the ``pairs`` of ``first``, in that order (None: all)."""
    named = [*(first.parts if parts else ()), *(() if first.weights_only else ("clean", "corrupt"))]
    rows = slice(None) if pairs is None else list(pairs)
    return max(distance(first.dataset[name].values[rows], second.dataset[name].values) for name in named)
