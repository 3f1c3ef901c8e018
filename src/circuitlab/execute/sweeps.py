"""Runs for methods that intervene: pairs grouped by length, unedited runs, and the metric of many edited runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from circuitlab.core.errors import ModelError, StreamedModelError, UnknownNameError
from circuitlab.core.in_step import ByLayer, drained
from circuitlab.execute.arrangement import InTurn, Pairs
from circuitlab.execute.memory import Fits, most_positions

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.engine import Engine
    from circuitlab.model.engine.base_run import BaseRun
    from circuitlab.model.protocol import Model
    from circuitlab.model.sites import EditSet, Site

__all__ = [
    "EngineName",
    "ExactSweeps",
    "Precision",
    "Run",
    "Sweeps",
    "batch_by_length",
    "metric_of_sweep",
    "pairs_together",
    "require_engine",
    "sweeps_on",
    "unedited_together",
]

EngineName: TypeAlias = Literal["exact", "hooks"]
Precision: TypeAlias = Literal["full", "bf16_difference"]

_Result = TypeVar("_Result")

_TOKENS_TOGETHER = 6144
"""Positions of edited runs in one sweep: enough for large matrix products in the lower layers, too."""

_TOKENS_UNEDITED = 512
"""Positions of unedited runs in one pass; more would only take more memory."""

_SHARED = 0.4
"""If at least this share of positions is common, the corrupt run starts from the clean run's keys and values, ..."""

_FEWEST = 64
"""... provided that at least this many positions are left to run; small matrix products cost more than they save."""

_WASTE = 1.15
"""Most positions in the shared windows of a chunk, relative to the pairs' own windows."""


class Run(Protocol):
    """An unedited run of some pairs, from which edited runs start."""

    @property
    def metric(self) -> np.ndarray:
        """Metric of the run, (pair,)."""
        ...

    def site(self, site: Site) -> Tensor:
        """The values of a requested site, (pair, layer, ...)."""
        ...

    def select(self, pairs: Sequence[int]) -> Run:
        """The run of some of its pairs, cut to the longest of them."""
        ...

    def sweep(self, edit_sets: Sequence[EditSet]) -> np.ndarray:
        """The metric of every edited run, (edit set, pair)."""
        ...

    def sweep_by_layer(self, edit_sets: Sequence[EditSet]) -> ByLayer[np.ndarray]:
        """`sweep` as work that goes through the layers."""
        ...

    def in_full(self) -> Run:
        """The same run, from which edited runs start in full precision."""
        ...


class Sweeps(Protocol):
    """Runs prompts unedited; many edited runs start from there."""

    def start(self, batch: ContrastBatch, sites: Collection[Site] = ()) -> tuple[Run, Run]:
        """The unedited clean and corrupt runs, with the values of these sites."""
        ...

    def start_by_layer(self, batch: ContrastBatch, sites: Collection[Site] = ()) -> ByLayer[tuple[Run, Run]]:
        """`start` as work that goes through the layers."""
        ...

    def clean(self, batch: ContrastBatch) -> Run:
        """The unedited clean run alone, from which runs edited at any position start."""
        ...

    def together(self, works: Iterable[ByLayer[_Result]]) -> ByLayer[list[_Result]]:
        """Several works on the same chunk of pairs: one after another, or in step where that reads the model less often."""
        ...

    def each(self, make: Callable[[Pairs], ByLayer[_Result]], chunks: Iterable[Pairs], name: str) -> Iterator[tuple[Pairs, _Result]]:
        """Chunks of pairs with the results of works on them; see `InTurn.each`."""
        ...


@dataclass(frozen=True, eq=False)
class ExactSweeps(InTurn):
    """The exact engine: computes only what an edit set can change."""

    model: Model
    metric: Metric
    engine: Engine

    def start(self, batch: ContrastBatch, sites: Collection[Site] = ()) -> tuple[Run, Run]:
        """The unedited clean and corrupt runs, with the values of these sites."""
        return drained(self.start_by_layer(batch, sites))

    def start_by_layer(self, batch: ContrastBatch, sites: Collection[Site] = ()) -> ByLayer[tuple[Run, Run]]:
        """`start` as work that goes through the layers: once for both runs if they share a pass, and once for each otherwise."""
        import torch  # noqa: PLC0415

        from circuitlab.model.engine import CommonPrefix  # noqa: PLC0415
        from circuitlab.model.places import Places  # noqa: PLC0415

        differ = batch.first_difference()
        first, n = int(torch.minimum(differ, batch.end).min()), batch.n_pairs
        length = batch.clean.shape[1]
        if first < _SHARED * length or n * (length - first) < _FEWEST:  # both runs in one pass: few prompts make small matrix products
            twice = {name: positions.repeat(2) for name, positions in batch.marks.items()}
            places = Places(torch.cat([batch.clean, batch.corrupt]), batch.end.repeat(2), twice)
            both = yield from self.engine.base_run_by_layer(places, sites, first=first)
            return self.run(batch, both.select(range(n))), self.run(batch, both.select(range(n, 2 * n)))
        clean = yield from self.engine.base_run_by_layer(Places(batch.clean, batch.end, batch.marks), sites, first=first)
        shared = CommonPrefix(clean, differ, first)
        corrupt = yield from self.engine.base_run_by_layer(Places(batch.corrupt, batch.end, batch.marks), sites, first=first, shared=shared)
        return self.run(batch, clean), self.run(batch, corrupt)

    def clean(self, batch: ContrastBatch) -> Run:
        """The unedited clean run alone, from which runs edited at any position start."""
        return self.run(batch, self.engine.base_run(batch.clean, batch.end, marks=batch.marks))

    def in_full(self) -> ExactSweeps:
        """The same, in full precision."""
        return replace(self, engine=replace(self.engine, difference=None))

    def run(self, batch: ContrastBatch, base: BaseRun) -> _ExactRun:
        """An unedited run with its metric."""
        return _ExactRun(self, batch, base, self.read(batch, base.final))

    def sweep_by_layer(self, base: BaseRun, edit_sets: Sequence[EditSet]) -> ByLayer[Tensor]:
        """The residual streams of edited runs: all edited runs in memory together or, by default, as many at a time as fit."""
        yield from ()
        return self.engine.sweep(base, edit_sets)

    def read(self, batch: ContrastBatch, final: Tensor) -> np.ndarray:
        """The metric of runs whose residual streams at the answer positions are ``final``."""
        ids, token_batch = (None, batch) if self.metric.whole_vocabulary else batch.over_tokens()
        return np.asarray(self.metric(self.model.unembed(final, ids).double(), token_batch).cpu())


@dataclass(frozen=True, eq=False)
class _ExactRun:
    on: ExactSweeps
    batch: ContrastBatch
    base: BaseRun
    metric: np.ndarray

    def site(self, site: Site) -> Tensor:
        return self.base.site(site)

    def select(self, pairs: Sequence[int]) -> _ExactRun:
        return _ExactRun(self.on, self.batch.select(pairs), self.base.select(pairs), self.metric[list(pairs)])

    def in_full(self) -> _ExactRun:
        return replace(self, on=self.on.in_full())

    def sweep(self, edit_sets: Sequence[EditSet]) -> np.ndarray:
        return drained(self.sweep_by_layer(edit_sets))

    def sweep_by_layer(self, edit_sets: Sequence[EditSet]) -> ByLayer[np.ndarray]:
        return self.on.read(self.batch, (yield from self.on.sweep_by_layer(self.base, edit_sets)))


@dataclass(frozen=True, eq=False)
class _Hooks(InTurn):
    """The slow reference: reruns the whole model for every edited run."""

    model: Model
    metric: Metric

    def start(self, batch: ContrastBatch, sites: Collection[Site] = ()) -> tuple[Run, Run]:
        clean, corrupt = (self._run(batch, tokens, list(sites)) for tokens in (batch.clean, batch.corrupt))
        return clean, corrupt

    def start_by_layer(self, batch: ContrastBatch, sites: Collection[Site] = ()) -> ByLayer[tuple[Run, Run]]:
        yield from ()  # whole forward passes
        return self.start(batch, sites)

    def clean(self, batch: ContrastBatch) -> Run:
        return self._run(batch, batch.clean, [])

    def _run(self, batch: ContrastBatch, tokens: Tensor, sites: list[Site]) -> _HookedRun:
        captured = self.model.capture(tokens, sites, marks=batch.marks) if sites else {}
        return _HookedRun(self, batch, tokens, captured, self.read(batch, self.model.logits(tokens, batch.end, marks=batch.marks)))

    def read(self, batch: ContrastBatch, logits: Tensor) -> np.ndarray:
        return np.asarray(self.metric(logits.double(), batch).cpu())


@dataclass(frozen=True, eq=False)
class _HookedRun:
    on: _Hooks
    batch: ContrastBatch
    tokens: Tensor
    sites: dict[Site, Tensor]
    metric: np.ndarray

    def site(self, site: Site) -> Tensor:
        return self.sites[site]

    def select(self, pairs: Sequence[int]) -> _HookedRun:
        rows, group = list(pairs), self.batch.select(pairs)
        stop = group.clean.shape[1]
        sites = {site: _trimmed(site, value[rows], stop) for site, value in self.sites.items()}
        return _HookedRun(self.on, group, self.tokens[rows, :stop], sites, self.metric[rows])

    def in_full(self) -> _HookedRun:
        return self

    def sweep(self, edit_sets: Sequence[EditSet]) -> np.ndarray:
        from circuitlab.model.engine.by_hooks import sweep_by_hooks  # noqa: PLC0415 - torch

        return self.on.read(self.batch, sweep_by_hooks(self.on.model, self.tokens, self.batch.end, edit_sets, marks=self.batch.marks))

    def sweep_by_layer(self, edit_sets: Sequence[EditSet]) -> ByLayer[np.ndarray]:
        yield from ()
        return self.sweep(edit_sets)


def _trimmed(site: Site, value: Tensor, stop: int) -> Tensor:
    """(pair, layer, pos, ...) or, for patterns, (pair, layer, head, query, key), cut to ``stop`` positions."""
    return value[..., :stop, :stop] if site.value == "pattern" else value[:, :, :stop]


def require_engine(name: str) -> None:
    """Raise `UnknownNameError` unless an engine has this name."""
    if name not in {"exact", "hooks"}:
        raise UnknownNameError("engine", name, ["exact", "hooks"])


def sweeps_on(model: Model, metric: Metric, engine: EngineName = "exact", precision: Precision = "full") -> Sweeps:
    """The engine of this name, or hooks with a warning if the model has no functional forward.

    Parameters
    ----------
    model, metric : Model, Metric
        The model and the metric.
    engine : {"exact", "hooks"}
        ``"exact"`` computes only what an edit set can change; ``"hooks"`` runs the whole model again. They agree up to rounding.
    precision : {"full", "bf16_difference"}
        Arithmetic of the exact engine: the model's dtype, or differences from the base run multiplied in bfloat16.
    """
    from circuitlab.model.engine import Difference, Engine  # noqa: PLC0415 - torch

    require_engine(engine)
    if engine == "hooks":
        return _Hooks(model, metric)
    try:
        decoder = model.decoder
        model.weights.final_norm  # noqa: B018 - raises if the logits cannot be computed from the last layer's stream
    except StreamedModelError:
        raise
    except ModelError as error:
        warnings.warn(f"Falling back to hooks, which are much slower: {error}", stacklevel=2)
        return _Hooks(model, metric)
    most = most_positions(model.spec.d_model, decoder.blocks[0].q.weight.element_size())
    difference = Difference() if precision == "bf16_difference" else None
    return ExactSweeps(model, metric, Engine(decoder, difference, most_positions=most))


def batch_by_length(
    batch: ContrastBatch,
    size: int,
    todo: Sequence[int] | None = None,
    *,
    alike: bool = True,
    fits: Fits | None = None,
) -> Iterator[list[int]]:
    """Pairs (those in ``todo``, or all) in chunks of at most ``size``, sorted by first difference and length.

    The edited runs of a chunk share a window, from the earliest first difference to the latest end. With ``alike``, a pair that would
    make the window much longer than the other pairs need starts a new chunk. With ``fits``, so does a pair with which the chunk would
    take too much memory; ``fits`` is called for every single pair before the first chunk. With the batch's ``one_length``, prompts of
    different lengths never share a chunk.
    """
    first, end = batch.first_difference().tolist(), batch.end.tolist()
    first = [min(start, last) for start, last in zip(first, end, strict=True)]
    order = sorted(range(batch.n_pairs) if todo is None else todo, key=lambda i: (first[i], end[i]))
    if fits is not None:
        for pair in order:
            fits(1, end[pair] + 1 - first[pair], end[pair] + 1)
    chunk: list[int] = []
    for pair in order:
        joined = [*chunk, pair]
        length = max(end[i] for i in joined) + 1
        window = length - min(first[i] for i in joined)
        wasteful = alike and len(joined) * window > _WASTE * sum(end[i] + 1 - first[i] for i in joined)
        apart = batch.one_length and end[pair] != end[chunk[0] if chunk else pair]
        if chunk and (len(joined) > size or wasteful or apart or (fits is not None and not fits(len(joined), window, length))):
            yield chunk
            joined = [pair]
        chunk = joined
    if chunk:
        yield chunk


def unedited_together(batch: ContrastBatch) -> int:
    """Number of pairs in one unedited pass, such that passes have about equal size: a small remainder would run much slower per pair."""
    most = max(1, round(_TOKENS_UNEDITED / (2 * float((batch.end + 1).float().mean()))))
    shares = -(-batch.n_pairs // most)
    return -(-batch.n_pairs // shares)


def pairs_together(batch: ContrastBatch, edit_sets: int) -> int:
    """Number of pairs in one sweep: many for few edit sets, so that matrix products are large, and one at a time for many edit sets."""
    changed = float((batch.end + 1 - batch.first_difference()).clamp(min=1).float().mean())
    return max(1, min(batch.n_pairs, round(_TOKENS_TOGETHER / (max(1, edit_sets) * changed))))


def metric_of_sweep(
    model: Model,
    metric: Metric,
    batch: ContrastBatch,
    tokens: Tensor,
    edit_sets: Sequence[EditSet],
    engine: EngineName = "exact",
) -> np.ndarray:
    """The metric of every edited run of some prompts, (edit set, pair)."""
    sweeps = sweeps_on(model, metric, engine)
    started, _ = sweeps.start(replace(batch, clean=tokens, corrupt=tokens))
    return started.sweep(edit_sets)
