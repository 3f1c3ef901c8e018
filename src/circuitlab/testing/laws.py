"""What a law reports, and the error that lists the laws which failed."""

from __future__ import annotations

from dataclasses import dataclass

from circuitlab.core.errors import CircuitlabError

__all__ = ["LawError", "LawResult", "raise_on_failure"]


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
