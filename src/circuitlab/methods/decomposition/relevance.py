"""Relevance of sources to the metric, with a check in every run that parts sum to activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Embed
from circuitlab.core.progress import step
from circuitlab.execute.checkpoint import PairRows
from circuitlab.execute.reference import with_reference
from circuitlab.execute.routes import universe_of
from circuitlab.methods.decomposition.forward import left_range, passes, run_layers
from circuitlab.methods.decomposition.prompts import Prompts, prompts_of, sources_together
from circuitlab.methods.decomposition.readout import Readout
from circuitlab.methods.decomposition.source import Options, Source, ordered

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from circuitlab.methods.decomposition.parts import Parts
    from circuitlab.methods.decomposition.rule import Rule
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["Invariant", "Relevance", "carries", "relevance_rows", "relevance_to_metric", "require_sources"]

_SHOWN = 5

_SAMPLE, _SHARE = 16, 8
"""In every run, at most `_SAMPLE` sources and one in `_SHARE` are decomposed again with both parts carried."""


@dataclass(frozen=True)
class Invariant:
    """How well relevant and irrelevant parts sum to the activation, with both carried through their own equations.

    Parameters
    ----------
    layers : tuple of float
        Largest deviation in each layer, over q, k, v, z and the residual stream, relative to the largest activation of its layer, pair and
        position (or 1). NaN in layers before the first source.
    logits : float
        The same for the logits at the answer position.
    difference : float
        Largest difference, in metric units, between the relevances of the run and those with both parts carried.
    """

    layers: tuple[float, ...]
    logits: float
    difference: float

    @property
    def error(self) -> float:
        """The largest deviation in any layer or the logits."""
        return float(np.nanmax([*self.layers, self.logits]))


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance of every source to the metric.

    Parameters
    ----------
    values : ndarray, shape (source, pair)
        Relevance in metric units; positive means that the source helps the answer.
    clean, corrupt : ndarray, shape (pair,)
        The metric of the unedited runs.
    invariant : Invariant
        How well parts sum to activations, on a sample of sources and pairs.
    bounded : ndarray of bool, shape (source, pair)
        Whether parts left the range of the activation, so that the value is that of bounded norms (`Rule`).
    """

    values: Float[np.ndarray, "source pair"]
    clean: Float[np.ndarray, " pair"]
    corrupt: Float[np.ndarray, " pair"]
    invariant: Invariant
    bounded: Bool[np.ndarray, "source pair"]


def require_sources(model: Model, sources: Sequence[Source]) -> None:
    """Raise `BadParameterError` unless there are sources and all of them belong to this model."""
    if not sources:
        raise BadParameterError("No source was given.", "Name at least one node.")
    for source in sources:
        source.require(universe_of(model))


def relevance_to_metric(
    model: Model,
    batch: ContrastBatch,
    metric: Metric,
    sources: Sequence[Source],
    options: Options | None = None,
    rows: PairRows | None = None,
) -> Relevance:
    """Decompose the clean prompts, and return the part of the metric that is due to each source.

    Parameters
    ----------
    model, batch, metric : Model, ContrastBatch, Metric
        The model, the pairs and the metric.
    sources : sequence of Source
        Each source is decomposed separately; the nodes of one source together.
    options : Options, optional
        Rule and baseline.
    rows : PairRows, optional
        From `relevance_rows`: pairs that are finished there are not run again, and newly finished pairs are stored there.

    Raises
    ------
    BadParameterError
        If there is no source, or the model or the prompts lack one. Also, after all other pairs are finished and stored, if a relevance
        is not finite.
    ModelError
        If the model has no functional forward.

    Notes
    -----
    Cost: two forward passes per pair, and for every source and pair the part of a forward pass above its layer and after the first
    relevant position.
    """
    require_sources(model, sources)
    settings, finished = options or Options(), rows or relevance_rows(batch, sources, kept=False)
    batch = with_reference(model, metric, batch)
    invariant: Invariant | None = None
    broken: dict[int, Source] = {}
    done = int(finished.done.sum()) * len(sources)
    for pairs, prompts in prompts_of(model, batch, sources, settings, todo=finished.todo):
        run = _Run(model, metric, prompts, settings)
        values, bounded = np.zeros((len(sources), len(pairs))), np.zeros((len(sources), len(pairs)), dtype=bool)
        for chunk in passes(sources, run.together):
            values[chunk], bounded[chunk] = run.relevances([sources[i] for i in chunk])
            done += len(chunk) * len(pairs)
            step(done, batch.n_pairs * len(sources))
        clean, corrupt = run.ends()
        invariant = invariant or run.invariant(sources, values, bounded)
        finite = np.isfinite(values).all(0)
        broken |= {pairs[i]: sources[int((~np.isfinite(values[:, i])).argmax())] for i in np.flatnonzero(~finite)}
        finished.put(
            [pairs[i] for i in np.flatnonzero(finite)],
            {"values": values.T[finite], "bounded": bounded.T[finite], "clean": clean[finite], "corrupt": corrupt[finite]},
        )
    if broken:
        finished.save()
        _refuse(broken, settings)
    assert invariant is not None  # noqa: S101 - a batch has at least one pair, and saved rows are never all finished
    arrays = finished.arrays
    return Relevance(arrays["values"].T, arrays["clean"], arrays["corrupt"], invariant, arrays["bounded"].T.astype(bool))


def relevance_rows(batch: ContrastBatch, sources: Sequence[Source], *, kept: bool = True) -> PairRows:
    """Rows for the relevances of every pair; with ``kept``, rows that an interrupted run has finished are loaded."""
    shapes: dict[str, tuple[int, ...]] = {"values": (len(sources),), "bounded": (len(sources),), "clean": (), "corrupt": ()}
    return PairRows.of(batch.n_pairs, shapes) if kept else PairRows.empty(batch.n_pairs, shapes)


def _refuse(broken: dict[int, Source], options: Options) -> NoReturn:
    """Raise `BadParameterError` with the pairs, and a source of each, whose relevance is not finite."""
    shown = ", ".join(f"pair {pair} (source {broken[pair]})" for pair in sorted(broken)[:_SHOWN])
    what = f"Under rule {str(options.rule)!r} {len(broken)} pairs have relevances that are not finite: {shown}."
    fix = "Leave them out (batch.select), or use rule='values', which does not multiply parts. A store keeps the finished pairs."
    raise BadParameterError(what, fix)


def carries(sources: Sequence[Source], options: Options) -> bool:
    """Whether the irrelevant part must be carried, at twice the cost, instead of being the activation minus the relevant part.

    It must be if a rule loses bias. It must also be if whole positions may be relevant from the embedding on: biases are shared by
    magnitude, so that an irrelevant part of rounding noise would grow from layer to layer.
    """
    everything = options.baseline == "zero" and any(isinstance(node, Embed) for source in sources for node in source.nodes)
    return everything or not options.rule.keeps_sums


@dataclass(frozen=True, eq=False)
class _Run:
    """A few pairs, ready to be decomposed."""

    model: Model
    metric: Metric
    prompts: Prompts
    options: Options

    @property
    def together(self) -> int:
        """Number of sources in one pass."""
        return sources_together(self.model, self.prompts, self.options)

    @property
    def readout(self) -> Readout:
        return Readout(self.model, self.metric, self.prompts.batch)

    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric of the clean and of the corrupt run."""
        return self.readout.of_run(self.prompts.clean), self.readout.of_run(self.prompts.corrupt)

    def relevances(self, sources: Sequence[Source]) -> tuple[np.ndarray, np.ndarray]:
        """Relevance of sources (in the order in which they join), (source, pair), and where norms had to be bounded."""
        rule, carry = self.options.rule, carries(sources, self.options)
        final = run_layers(rule, self.prompts, sources, carry=carry)
        values, left = self._read(rule, final), left_range(self.prompts, final)
        if rule.norm == "bounded" or not left.any():
            return values, np.zeros_like(left)
        rows = np.flatnonzero(left.any(1))
        bounded, affected = replace(rule, norm="bounded"), [sources[int(row)] for row in rows]
        again = self._read(bounded, run_layers(bounded, self.prompts, affected, carry=carry))
        values[rows] = np.where(left[rows], again, values[rows])
        return values, left

    def _read(self, rule: Rule, final: Parts) -> np.ndarray:
        return self.readout.relevance(self.readout.logits(rule, final, self.prompts.end))

    def invariant(self, sources: Sequence[Source], relevances: np.ndarray, bounded: np.ndarray) -> Invariant:
        """Decompose a sample of sources again with both parts carried, and compare with ``relevances``, (source, pair).

        The sample is taken from sources without bounded norms, if there are any.
        """
        order = ordered(sources)
        unbounded = [i for i in order if not bounded[i].any()]
        rule, order = (self.options.rule, unbounded) if unbounded else (replace(self.options.rule, norm="bounded"), order)
        count = max(1, min(_SAMPLE, len(order) // _SHARE))
        sampled = [order[i] for i in sorted({round(place) for place in np.linspace(0, len(order) - 1, count)})]
        worst = [float("nan")] * len(self.prompts.clean.layers)

        def compare(layer: int, _field: str, parts: Parts) -> None:
            worst[layer] = float(np.fmax(worst[layer], parts.error()))

        final = run_layers(rule, self.prompts, [sources[i] for i in sampled], seen=compare, carry=True)
        logits = self.readout.logits(rule, final, self.prompts.end)
        apart = np.abs(self.readout.relevance(logits) - relevances[sampled])[bounded[sampled] == (not unbounded)]
        return Invariant(tuple(worst), logits.error(), float(apart.max()))
