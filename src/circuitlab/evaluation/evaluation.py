"""What an evaluation found: metric per circuit and pair, and every measure read off it with an interval over pairs. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.circuits.chance import p_value
from circuitlab.scores.intervals import Interval

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.circuits.curves import Axis, FaithfulnessCurve, FaithfulnessScale

__all__ = ["Evaluation"]

_HEADLINE = "absolute"
_AXES: tuple[Axis, ...] = ("linear", "log")
_CONVENTIONS = {
    "faithfulness": "(mean m(C) - mean m(empty)) / (mean m(full) - mean m(empty)): a ratio of means over pairs",
    "clamped": "never",
    "interval": "95 %, percentiles of a bootstrap over pairs",
    "completeness": "|mean m(C without K) - mean m(full without K)| / gap, K random subsets of C with probability 1/2 each; mean over K",
    "minimality": "(mean m(C) - mean m(C without v)) / gap for each v of C, nothing else removed",
    "p": "(r + 1) / (n + 1), r of n random circuits at least as faithful (f at least as large)",
    "random_range": "2.5 % and 97.5 % quantiles of f over random circuits",
}
_CURVE_CONVENTIONS = {
    "cpr": "trapezoid area of f(k)",
    "cmd": "trapezoid area of |1 - f(k)|",
    "headline": "ranking by absolute mean score, linear axis",
    "rankings": "absolute: by magnitude; signed: by value, most helpful first",
    "axes": "linear: over k; log: over ln k; neither is normalised",
    "sizes": "floor(k x universe), over all parts of the universe together; ties go to the earlier element",
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Measures of one circuit.

    Parameters
    ----------
    circuit : Circuit
        What was evaluated.
    ends : FaithfulnessScale
        Metric of the full model and of the empty circuit.
    values : dict of str to ndarray, shape (circuit, pair)
        Metric of each circuit that was run: ``"circuit"`` itself, ``"random"`` ones, ``"one_less"`` (the circuit without each element),
        and for each kind of subsets K, ``"random/circuit"`` and ``"random/model"`` (the circuit and the full model without each K).
    elements : tuple of str
        The circuit's nodes or edges, in the order of ``"one_less"``.
    n_elements : int
        Size of the universe.
    subsets : dict of str to tuple of (str, tuple of str)
        Title and elements of every K, by kind: ``"random"``, ``"classes"``, ``"greedy"``.
    curves : dict of str to FaithfulnessCurve
        By ranking; empty where nothing ranked the universe.
    conventions : dict of str to str
        How circuits were run.
    """

    circuit: Circuit
    ends: FaithfulnessScale
    values: dict[str, np.ndarray]
    elements: tuple[str, ...]
    n_elements: int
    subsets: dict[str, tuple[tuple[str, tuple[str, ...]], ...]]
    curves: dict[str, FaithfulnessCurve]
    conventions: dict[str, str]

    @cached_property
    def faithfulness(self) -> Interval:
        """Share of the full model's metric that the circuit recovers; may exceed 1 or be negative."""
        return _first(self.ends.faithfulness(self.values["circuit"]))

    @cached_property
    def random_faithfulness(self) -> np.ndarray:
        """Faithfulness of every random circuit on all pairs, (random,)."""
        return self.ends.draws(self.values["random"])[0]

    @property
    def p(self) -> float | None:
        """Share of random circuits at least as faithful, the circuit counted among them; None where none was run."""
        reference = self.random_faithfulness
        return p_value(float(self.faithfulness.mean), reference) if reference.size else None

    def completeness(self) -> dict[str, Any] | None:
        """Incompleteness over random subsets K: how differently circuit and model respond to the loss of K, as a share of the gap.

        0 is complete. ``{"mean", "low", "high", "worst", "n", "subsets": [{"name", "removed", "circuit", "model", "difference"}]}`` over
        random subsets, with ``"classes"`` and ``"greedy"`` in the form of ``"subsets"`` where those were asked for; None where nothing was
        run. The absolute value makes the mean biased upward for few pairs.
        """
        if not any(self.subsets.values()):
            return None
        found: dict[str, Any] = {"mean": np.nan, "low": np.nan, "high": np.nan, "worst": np.nan, "n": len(self.subsets["random"])}
        if self.subsets["random"]:
            difference = np.abs(self._difference("random"))
            found |= _first(self.ends.interval(difference.mean(1, keepdims=True))).as_dict() | {"worst": float(difference[0].max())}
        rows = {"subsets" if kind == "random" else kind: self._rows(kind) for kind in self.subsets}
        return found | {name: some for name, some in rows.items() if some or name == "subsets"}

    def _difference(self, kind: str) -> np.ndarray:
        """What the circuit keeps more than the model of the loss of each K, as a share of the gap, (1 + n_resamples, subset)."""
        return self.ends.share(self.values[f"{kind}/circuit"] - self.values[f"{kind}/model"])

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        left, whole = (self.ends.draws(self.values[f"{kind}/{which}"])[0] for which in ("circuit", "model"))
        return [
            {"name": name, "removed": list(removed), "circuit": float(c), "model": float(m), "difference": float(d)}
            for (name, removed), c, m, d in zip(self.subsets[kind], left, whole, self._difference(kind)[0], strict=True)
        ]

    def minimality(self) -> dict[str, Any] | None:
        """What the circuit loses without each of its elements, as a share of the gap; negative where it does better without.

        ``{"least": smallest magnitude, "elements": [{"node" or "edge", "mean", "low", "high"}]}``, or None where the circuit is empty or
        has too many elements.
        """
        if not len(self.values["one_less"]):
            return None
        lost = self.ends.share(self.values["circuit"] - self.values["one_less"])
        mean, low, high = map(np.asarray, self.ends.interval(lost))
        kind = "node" if self.circuit.edges is None else "edge"
        rows = [
            {kind: name, "mean": float(m), "low": float(lo), "high": float(hi)}
            for name, m, lo, hi in zip(self.elements, mean, low, high, strict=True)
        ]
        return {"least": float(np.abs(mean).min()), "elements": rows}

    def to_dict(self) -> dict[str, Any]:
        """Plain data: faithfulness, completeness, minimality, cpr, cmd, curve, conventions, random, size, full and empty.

        Intervals are ``{"mean", "low", "high"}``; limits are NaN with a single pair.
        """
        reference = self.random_faithfulness
        low, high = np.quantile(reference, [0.025, 0.975]) if reference.size else (np.nan, np.nan)
        mean = float(reference.mean()) if reference.size else np.nan
        ends = self.ends.draws(np.stack([self.ends.full, self.ends.empty]))[0]
        said = _CONVENTIONS | {"interval": f"{_CONVENTIONS['interval']}, {self.ends.n_resamples} resamples, seed {self.ends.seed}"}
        return {
            "faithfulness": self.faithfulness.as_dict(),
            "completeness": self.completeness(),
            "minimality": self.minimality(),
            "cpr": self._areas("cpr"),
            "cmd": self._areas("cmd"),
            "curve": {_word(by): curve.to_list() for by, curve in self.curves.items()} or None,
            "random": {"n": int(reference.size), "p": self.p, "mean": mean, "low": float(low), "high": float(high)},
            "size": {"elements": len(self.elements), "universe": self.n_elements},
            "full": {"faithfulness": float(ends[0]), "metric": float(self.ends.full.mean())},
            "empty": {"faithfulness": float(ends[1]), "metric": float(self.ends.empty.mean())},
            "n_pairs": len(self.ends.full),
            "conventions": self.conventions | said | (_CURVE_CONVENTIONS if self.curves else {}),
        }

    def _areas(self, which: str) -> dict[str, Any] | None:
        """The headline interval, and the interval of every ranking and axis."""
        if not self.curves:
            return None
        found = {
            _word(by): {axis: (curve.cpr(axis) if which == "cpr" else curve.cmd(axis)).as_dict() for axis in _AXES}
            for by, curve in self.curves.items()
        }
        return found[_HEADLINE]["linear"] | found


def _first(interval: Interval) -> Interval:
    """The only entry of an interval of shape (1,)."""
    return Interval(*(np.float64(np.asarray(part)[0]) for part in interval))


def _word(ranking: str) -> str:
    return "signed" if ranking == "positive" else ranking
