"""EdgeScores: one value per prompt pair and edge; the counterpart of HeadScores for edges, with the same sign convention and provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.html import html_table
from circuitlab.core.nodes import Edge, parse_edge
from circuitlab.core.provenance import Provenance
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.scores.head_scores import HeadScores
from circuitlab.scores.intervals import Interval, IntervalMethod, mean_interval
from circuitlab.scores.netcdf import built_as_stored, read_dataset, write_dataset

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["EdgeScore", "EdgeScores"]

_PER_PAIR = ("total", "clean", "corrupt")
_FORMAT = "circuitlab EdgeScores"
_SHOWN, _LISTED = 5, 10
"""Number of edges in the text repr, and in the table of a notebook."""


@dataclass(frozen=True, slots=True)
class EdgeScore:
    """The mean score of one edge over pairs with its confidence interval, in the units of the scores."""

    edge: Edge
    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, repr=False)
class EdgeScores:
    """Scores of a model's edges on a set of prompt pairs.

    Positive always means *helps the answer*. Values are in the raw units of the metric (see ``provenance.units``).

    Parameters
    ----------
    dataset : xarray.Dataset
        ``edges (pair, sender, receiver)`` in float32, 0 where there is no edge; ``clean (pair)`` and ``corrupt (pair)``, the
        metric of the two unedited runs; ``total (pair)``, the gap between them. Build it with `EdgeScores.build`.
    provenance : Provenance
        Method, parameters, model, prompts and metric.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.fakes import fake_provenance
    >>> about = fake_provenance(1, 2)  # one layer of two heads
    >>> layout = EdgeLayout.of(about.model)
    >>> edges = np.zeros((3, *layout.shape))  # three pairs
    >>> edges[:, *layout.index("a0.h1->logits")] = 1.5
    >>> gap = {"total": np.ones(3), "clean": np.ones(3), "corrupt": np.zeros(3)}
    >>> scores = EdgeScores.build({"edges": edges, **gap}, about)
    >>> str(scores.top(1)[0].edge), scores.top(1)[0].mean
    ('a0.h1->logits', 1.5)
    """

    dataset: xr.Dataset
    provenance: Provenance

    @classmethod
    def build(cls, arrays: Mapping[str, np.ndarray], provenance: Provenance) -> EdgeScores:
        """Label plain arrays and check them.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            ``"edges"``, shape (pair, sender, receiver) in the order of `EdgeLayout`; ``"total"``, ``"clean"`` and
            ``"corrupt"``, shape (pair,).
        provenance : Provenance
            Stored with the scores; its model determines which edges exist.

        Raises
        ------
        BadParameterError
            If an array is missing, has a wrong shape or holds values that are not finite, or an entry without an edge is not 0.
        UnknownNameError
            If an array has another name.
        """
        import xarray as xr  # noqa: PLC0415 - xarray costs 0.5 s; only results need it

        layout = EdgeLayout.of(provenance.model)
        if missing := {"edges", *_PER_PAIR} - set(arrays):
            what = f"Edge scores of {provenance.method!r} lack {', '.join(sorted(missing))}."
            raise BadParameterError(what, "Give edges (pair, sender, receiver) and one value per pair for each other.")
        n_pairs = int(np.shape(arrays["total"])[0])
        variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
        for name, values in arrays.items():
            if name not in {"edges", *_PER_PAIR}:
                raise UnknownNameError("edge score array", name, ["edges", *_PER_PAIR])
            axes = ("pair", "sender", "receiver") if name == "edges" else ("pair",)
            array = np.asarray(values, dtype=np.float32) if name == "edges" else np.asarray(values)
            expected = (n_pairs, *layout.shape) if name == "edges" else (n_pairs,)
            if array.shape != expected:
                what = f"{name!r} has shape {array.shape}; {axes} of {provenance.model.name} needs {expected}."
                raise BadParameterError(what, "Return one value per pair and edge.")
            if not np.isfinite(array).all():
                what = f"{name!r} of {provenance.method!r} holds values that are not finite."
                raise BadParameterError(what, "Check the metric and the dtype of the run.")
            variables[name] = (axes, array)
        outside = np.argwhere((variables["edges"][1] != 0).any(axis=0) & ~layout.mask)
        if len(outside):
            sender, receiver = layout.sender_names[outside[0][0]], layout.receiver_names[outside[0][1]]
            what = f"{len(outside)} entries without an edge have a score, {sender}->{receiver} among them."
            raise BadParameterError(what, "Multiply by EdgeLayout.mask.")
        coords = {"pair": np.arange(n_pairs), "sender": list(layout.sender_names), "receiver": list(layout.receiver_names)}
        return cls(xr.Dataset(variables, coords=coords), provenance)

    def __repr__(self) -> str:
        about, layout = self.provenance, self.layout
        lines = [
            f"EdgeScores: {about.method} on {about.task.id} ({about.task.variant}), {about.model.name}, {self.n_pairs} pairs",
            f"  {about.estimand}; in {about.units}; positive helps the answer",
            f"  {layout.n_edges} edges: {layout.shape[0]} senders, {layout.shape[1]} receivers (queries, keys, values, MLPs, logits)",
            "  strongest: " + ", ".join(f"{e.edge} {e.mean:+.3g} [{e.low:+.3g}, {e.high:+.3g}]" for e in self.top(_SHOWN)),
        ]
        if about.fitness is not None and not about.fitness.ready:
            lines.append(f"  NOT READY: {about.fitness.reason}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        about = self.provenance
        rows = [[str(top.edge), f"{top.mean:+.3g}", f"[{top.low:+.3g}, {top.high:+.3g}]"] for top in self.top(_LISTED)]
        title = f"{about.method.replace('_', ' ')} on {about.task.id} ({about.task.variant}), {about.model.name}, {self.n_pairs} pairs"
        note = f"{about.estimand}; in {about.units}; positive helps the answer. {self.layout.n_edges} edges. Run {about.run_id()}."
        flag = about.fitness
        warning = "" if flag is None or flag.ready else flag.reason
        return html_table(title, ["strongest edges", "mean", "95 % interval"], rows, notes=[note], warning=warning)

    def __getitem__(self, edge: Edge | str) -> EdgeScore:
        """The mean score of one edge with its 95 % interval: ``scores["a9.h6->logits"]``.

        Raises
        ------
        UnknownNameError, BadParameterError
            If the model has no such edge; see `EdgeLayout.index`.
        """
        values = self.values(edge)
        mean, low, high = map(float, mean_interval(values))
        return EdgeScore(parse_edge(edge) if isinstance(edge, str) else edge, mean, low, high)

    @cached_property
    def layout(self) -> EdgeLayout:
        """Which edges exist, and the index of each."""
        return EdgeLayout.of(self.provenance.model)

    @property
    def n_pairs(self) -> int:
        """Number of prompt pairs."""
        return int(self.dataset.sizes["pair"])

    def values(self, edge: Edge | str | None = None) -> np.ndarray:
        """Scores per pair: of all edges, dense, shape (pair, sender, receiver), or of one edge, shape (pair,).

        Raises
        ------
        UnknownNameError, BadParameterError
            If the model has no such edge; see `EdgeLayout.index`.
        """
        dense = np.asarray(self.dataset["edges"].values)
        if edge is None:
            return dense
        sender, receiver = self.layout.index(edge)
        return dense[:, sender, receiver]

    def mean(self) -> np.ndarray:
        """Mean over pairs, shape (sender, receiver), float64; 0 where there is no edge."""
        return self.values().mean(axis=0, dtype=np.float64)

    def interval(self, *, confidence: float = 0.95, method: IntervalMethod = "t") -> Interval:
        """Confidence interval of the mean over pairs; each array has shape (sender, receiver) and is 0 where there is no edge.

        See `circuitlab.scores.intervals.mean_interval`. With one pair the limits of every edge are NaN.
        """
        indices = self.layout.edge_indices
        interval = mean_interval(self.values()[:, *indices], confidence=confidence, method=method)
        dense = np.zeros((3, *self.layout.shape))
        for array, values in zip(dense, interval, strict=True):
            array[indices] = values
        return Interval(*dense)

    def gap(self, *, confidence: float = 0.95) -> Interval:
        """Mean over pairs of the clean minus the corrupt metric, with its interval."""
        difference = self.dataset["clean"].values - self.dataset["corrupt"].values
        return mean_interval(difference, confidence=confidence)

    def edges(self, *, confidence: float = 0.95) -> list[EdgeScore]:
        """Every edge that exists with mean and interval: receiver by receiver, senders in forward order."""
        return self._edge_scores(np.arange(self.layout.n_edges), confidence)

    def top(self, k: int = 10, by: str = "absolute", *, confidence: float = 0.95) -> list[EdgeScore]:
        """The ``k`` strongest edges; ties keep the order of `edges`.

        Parameters
        ----------
        k : int
            Number of edges; all edges if the model has fewer.
        by : {"absolute", "positive", "negative"}
            Rank by magnitude, by most helpful, or by most harmful.
        confidence : float
            Nominal coverage of the intervals.
        """
        keys = {"absolute": lambda mean: -np.abs(mean), "positive": lambda mean: -mean, "negative": lambda mean: mean}
        if by not in keys:
            raise UnknownNameError("ranking", by, keys)
        order = np.argsort(keys[by](self.mean()[self.layout.edge_indices]), kind="stable")
        return self._edge_scores(order[: max(k, 0)], confidence)

    def _edge_scores(self, numbers: np.ndarray, confidence: float) -> list[EdgeScore]:
        """The edges with these numbers in ``layout.edge_indices``; intervals are computed for these only."""
        senders, receivers = (axis[numbers] for axis in self.layout.edge_indices)
        mean, low, high = map(np.atleast_1d, mean_interval(self.values()[:, senders, receivers], confidence=confidence))
        edges = [self.layout.edge(int(i), int(j)) for i, j in zip(senders, receivers, strict=True)]
        return [EdgeScore(edge, float(mean[n]), float(low[n]), float(high[n])) for n, edge in enumerate(edges)]

    def sel(self, pairs: Sequence[int] | np.ndarray) -> EdgeScores:
        """The same scores on some of the pairs, given as indices or as a boolean mask; the provenance is unchanged."""
        index = np.asarray(pairs)
        index = np.flatnonzero(index) if index.dtype == bool else index
        return EdgeScores(self.dataset.isel(pair=index), self.provenance)

    def to_head_scores(self) -> HeadScores:
        """The sum of each sender's outgoing edges: ``heads (pair, layer, head)``, ``mlps (pair, layer)``, ``embed (pair)``.

        For gradient methods this is the attribution of the node itself, because the gradient at its output is the sum of the gradients
        that its receivers pass back.
        """
        spec = self.provenance.model
        sums = self.values().sum(axis=2, dtype=np.float64)
        layers = sums[:, 1:].reshape(self.n_pairs, spec.n_layers, spec.n_heads + 1)
        arrays = {"heads": layers[..., :-1], "mlps": layers[..., -1], "embed": sums[:, 0]}
        return HeadScores.build(arrays | {name: self.dataset[name].values for name in _PER_PAIR}, self.provenance)

    def to_frame(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """Tidy table with one row per edge: edge, sender, receiver, port, mean, low, high, units, n, and where it comes from."""
        import pandas as pd  # noqa: PLC0415 - pandas is slow to import

        about, layout = self.provenance, self.layout
        senders, receivers = layout.edge_indices
        mean, low, high = (np.asarray(values)[senders, receivers] for values in self.interval(confidence=confidence))
        frame = pd.DataFrame(
            {
                "edge": list(map(str, layout.edges())),
                "sender": [layout.sender_names[i] for i in senders],
                "receiver": [str(layout.receivers[i][0]) for i in receivers],
                "port": [layout.receivers[i][1] for i in receivers],
                "mean": mean,
                "low": low,
                "high": high,
            },
        )
        ready = None if about.fitness is None else about.fitness.ready
        shared: dict[str, Any] = {"units": about.units, "n": self.n_pairs, "method": about.method, "task": about.task.id}
        shared |= {"variant": about.task.variant, "model": about.model.name, "run_id": about.run_id(), "task_ready": ready}
        return frame.assign(**shared)

    def save(self, path: str | Path) -> Path:
        """Write one netCDF file in one step and return its path; see `circuitlab.scores.netcdf.write_dataset`."""
        return write_dataset(Path(path), self.dataset, self.provenance, _FORMAT)

    @classmethod
    def load(cls, path: str | Path) -> EdgeScores:
        """Read a file written by `save`; foreign, damaged or newer files, and files of HeadScores, raise a `ScoreFileError`."""
        dataset, provenance = read_dataset(Path(path), _FORMAT)

        def build() -> EdgeScores:
            spec = provenance.model
            names = [tuple(map(str, dataset[axis].values)) for axis in ("sender", "receiver")]
            layout = EdgeLayout.of(spec) if spec.n_layers * spec.n_heads < len(names[0]) else None  # a shape of millions is not laid out
            if layout is None or names != [layout.sender_names, layout.receiver_names]:
                raise BadParameterError(f"Its senders and receivers are not those of {spec.name}.", "Compute the run again.")
            return cls.build({str(name): values.values for name, values in dataset.data_vars.items()}, provenance)

        return built_as_stored(Path(path), build)
