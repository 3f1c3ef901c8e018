"""Evaluation: the metric of every circuit and pair, and the measures that follow from it, with intervals over pairs. numpy only."""

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
    """The measures of one circuit.

    Parameters
    ----------
    circuit : Circuit
        The evaluated circuit.
    scale : FaithfulnessScale
        Metric of the full model and of the empty circuit.
    values : dict of str to ndarray, shape (circuit, pair)
        Metric of the circuits that were run: ``"circuit"`` itself, ``"random"`` circuits, ``"one_less"`` (the circuit without each of its
        elements), and for each kind of subsets K, such as ``"random"``, ``"random/circuit"`` and ``"random/model"`` (the circuit and the
        full model without each K).
    elements : tuple of str
        Names of the circuit's nodes or edges, in the order of ``"one_less"``.
    n_elements : int
        Size of the universe.
    subsets : dict of str to tuple of (str, tuple of str)
        Title and elements of every K, by kind: ``"random"``, ``"classes"``, ``"greedy"``.
    curves : dict of str to FaithfulnessCurve
        Curves over circuit size by ranking; empty if there were no scores.
    conventions : dict of str to str
        How circuits were run.
    """

    circuit: Circuit
    scale: FaithfulnessScale
    values: dict[str, np.ndarray]
    elements: tuple[str, ...]
    n_elements: int
    subsets: dict[str, tuple[tuple[str, tuple[str, ...]], ...]]
    curves: dict[str, FaithfulnessCurve]
    conventions: dict[str, str]

    @cached_property
    def faithfulness(self) -> Interval:
        """Share of the gap between the empty circuit and the full model that the circuit recovers; it can exceed 1 or be negative."""
        return _first(self.scale.faithfulness(self.values["circuit"]))

    @cached_property
    def random_faithfulness(self) -> np.ndarray:
        """Faithfulness of every random circuit on all pairs, (random,)."""
        return self.scale.draws(self.values["random"])[0]

    @property
    def p(self) -> float | None:
        """Share of random circuits that are at least as faithful, with the circuit counted among them; None if none were run."""
        reference = self.random_faithfulness
        return p_value(float(self.faithfulness.mean), reference) if reference.size else None

    def completeness(self) -> dict[str, Any] | None:
        """Incompleteness: how differently the circuit and the full model respond when subsets K are ablated, as a share of the gap.

        A complete circuit has 0. The mean of the absolute difference over random subsets is biased upward for few pairs.

        Returns
        -------
        dict or None
            ``{"mean", "low", "high", "worst", "n", "subsets": [{"name", "removed", "circuit", "model", "difference"}]}`` over random
            subsets, and ``"classes"`` and ``"greedy"`` in the form of ``"subsets"`` if these were run; None if there were no subsets.
        """
        if not any(self.subsets.values()):
            return None
        summary: dict[str, Any] = {"mean": np.nan, "low": np.nan, "high": np.nan, "worst": np.nan, "n": len(self.subsets["random"])}
        if self.subsets["random"]:
            difference = np.abs(self._difference("random"))
            summary |= _first(self.scale.interval(difference.mean(1, keepdims=True))).as_dict() | {"worst": float(difference[0].max())}
        rows = {"subsets" if kind == "random" else kind: self._rows(kind) for kind in self.subsets}
        return summary | {name: listed for name, listed in rows.items() if listed or name == "subsets"}

    def _difference(self, kind: str) -> np.ndarray:
        """Metric of the circuit minus that of the full model, both without K, as a share of the gap, (1 + n_resamples, subset)."""
        return self.scale.share(self.values[f"{kind}/circuit"] - self.values[f"{kind}/model"])

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        circuit, model = (self.scale.draws(self.values[f"{kind}/{whose}"])[0] for whose in ("circuit", "model"))
        return [
            {"name": name, "removed": list(removed), "circuit": float(c), "model": float(m), "difference": float(d)}
            for (name, removed), c, m, d in zip(self.subsets[kind], circuit, model, self._difference(kind)[0], strict=True)
        ]

    def minimality(self) -> dict[str, Any] | None:
        """What the circuit loses without each of its elements, as a share of the gap; negative if it does better without the element.

        Returns
        -------
        dict or None
            ``{"least": smallest magnitude, "elements": [{"node" or "edge", "mean", "low", "high"}]}``; None if the circuit is empty or has
            more than ``Evaluate.most_elements`` elements.
        """
        if not len(self.values["one_less"]):
            return None
        losses = self.scale.share(self.values["circuit"] - self.values["one_less"])
        mean, low, high = map(np.asarray, self.scale.interval(losses))
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
        full, empty = self.scale.draws(np.stack([self.scale.full, self.scale.empty]))[0]
        measures = _CONVENTIONS | {"interval": f"{_CONVENTIONS['interval']}, {self.scale.n_resamples} resamples, seed {self.scale.seed}"}
        return {
            "faithfulness": self.faithfulness.as_dict(),
            "completeness": self.completeness(),
            "minimality": self.minimality(),
            "cpr": self._areas("cpr"),
            "cmd": self._areas("cmd"),
            "curve": {_word(by): curve.to_list() for by, curve in self.curves.items()} or None,
            "random": {"n": int(reference.size), "p": self.p, "mean": mean, "low": float(low), "high": float(high)},
            "size": {"elements": len(self.elements), "universe": self.n_elements},
            "full": {"faithfulness": float(full), "metric": float(self.scale.full.mean())},
            "empty": {"faithfulness": float(empty), "metric": float(self.scale.empty.mean())},
            "n_pairs": len(self.scale.full),
            "conventions": self.conventions | measures | (_CURVE_CONVENTIONS if self.curves else {}),
        }

    def _areas(self, measure: str) -> dict[str, Any] | None:
        """The headline interval of CPR or CMD, and its interval for every ranking and axis."""
        if not self.curves:
            return None
        areas = {
            _word(by): {axis: (curve.cpr(axis) if measure == "cpr" else curve.cmd(axis)).as_dict() for axis in _AXES}
            for by, curve in self.curves.items()
        }
        return areas[_HEADLINE]["linear"] | areas


def _first(interval: Interval) -> Interval:
    """The only entry of an interval of shape (1,)."""
    return Interval(*(np.float64(np.asarray(limit)[0]) for limit in interval))


def _word(ranking: str) -> str:
    return "signed" if ranking == "positive" else ranking
