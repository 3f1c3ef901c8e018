"""HeadScores: the result of every method. One value per prompt pair and node (or per node, from weights alone), with provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.core.errors import BadParameterError, EmptyGapError, UnknownNameError
from circuitlab.core.html import html_table
from circuitlab.core.nodes import Head, KVHead, Node, Universe, parse_node
from circuitlab.core.provenance import Provenance
from circuitlab.scores.intervals import NO_INTERVAL, Interval, IntervalMethod, mean_interval, no_interval, no_pairs
from circuitlab.scores.netcdf import built_as_stored, read_dataset, write_dataset
from circuitlab.scores.parts import PARTS, PER_PAIR, NodeScore, require_no_prompts

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["HeadScores"]

_FORMAT = "circuitlab HeadScores"
_SHOWN, _LISTED = 5, 10
"""Number of nodes in the text repr, and in the table of a notebook."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadScores:
    """Scores of a model's nodes on a set of prompt pairs.

    Positive always means *helps the answer*. Values are in the raw units of the metric (see ``provenance.units``).

    Parameters
    ----------
    dataset : xarray.Dataset
        ``heads (pair[, mark], layer, head)`` and any other variable of `circuitlab.scores.parts.PARTS`;
        ``clean (pair)`` and ``corrupt (pair)``, the metric of the two unedited runs; ``total (pair)``, the whole of which the scores are
        shares (the clean-corrupt gap for contrastive methods, the clean metric for methods that attribute one run); and
        ``bias (pair)``, what an additive method attributes to no node. Build it with `HeadScores.build`.
    provenance : Provenance
        Method, parameters, model, prompts and metric.

    Notes
    -----
    Scores from weights alone (`weights_only`) have no pair axis: ``heads (layer, head)`` and nothing per pair. Their `mean` is the score
    itself, `n_pairs` is 0 and every interval has NaN limits: what no prompt was drawn for has no spread over prompts. What needs pairs
    raises `BadParameterError` and says so.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.fakes import fake_provenance
    >>> heads = np.array([[[0.1, 2.0]], [[-0.1, 2.4]]])  # two pairs, one layer of two heads
    >>> gap = {"total": np.ones(2), "clean": np.ones(2), "corrupt": np.zeros(2)}
    >>> scores = HeadScores.build({"heads": heads, **gap}, fake_provenance(1, 2))
    >>> round(scores["a0.h1"].mean, 2), str(scores.top(1)[0].node)
    (2.2, 'a0.h1')
    """

    dataset: xr.Dataset
    provenance: Provenance

    @classmethod
    def build(
        cls,
        arrays: Mapping[str, np.ndarray],
        provenance: Provenance,
        marks: Sequence[str] | None = None,
    ) -> HeadScores:
        """Label plain arrays and check their shapes.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            Values by name: parts (``"heads"``, ``"mlps"``, ...), of shape (pair, layer, ...) or, with ``marks``,
            (pair, mark, layer, ...), and ``"total"``, ``"clean"``, ``"corrupt"`` and optionally ``"bias"``, of shape (pair,).
            From weights alone: parts only, of shape (layer, ...).
        provenance : Provenance
            Stored with the scores. Its model gives the number of layers and heads; `Provenance.weights_only` says whether the scores
            come from weights alone.
        marks : sequence of str, optional
            Names along the mark axis of every part.

        Raises
        ------
        BadParameterError
            If a shape does not fit the model or the other arrays, a value is not finite, a required array is missing, or scores from
            weights alone contain what only prompts can give.
        UnknownNameError
            If an array has another name.
        """
        import xarray as xr  # noqa: PLC0415 - xarray costs 0.5 s; only results need it

        spec = provenance.model
        sizes = {"layer": spec.n_layers, "head": spec.n_heads, "kv_head": spec.n_kv_heads}
        pair_axis: tuple[str, ...] = ()
        coords: dict[str, object] = {}
        if provenance.weights_only:
            require_no_prompts(provenance, arrays, marks)
        else:
            if missing := {"total", "clean", "corrupt"} - set(arrays):
                what = f"Scores of {provenance.method!r} lack {', '.join(sorted(missing))}."
                raise BadParameterError(what, "Give one value per pair for each.")
            pair_axis, sizes["pair"] = ("pair",), int(np.shape(arrays["total"])[0])
            coords["pair"] = np.arange(sizes["pair"])
        if marks is not None:
            sizes["mark"], coords["mark"] = len(marks), list(marks)
        variables = {}
        for name, values in arrays.items():
            if name not in PARTS and name not in PER_PAIR:
                raise UnknownNameError("score part", name, [*PARTS, *PER_PAIR])
            mark_axis = ("mark",) if marks is not None and name in PARTS else ()
            axes = (*pair_axis, *mark_axis, *(PARTS[name].axes if name in PARTS else ()))
            expected = tuple(sizes[axis] for axis in axes)
            array = np.asarray(values)
            if array.shape != expected:
                what = f"Part {name!r} has shape {array.shape}; {axes} needs {expected}."
                raise BadParameterError(what, f"Return one value per {'pair and ' if pair_axis else ''}node.")
            if not np.isfinite(array).all():
                what = f"Part {name!r} of {provenance.method!r} holds values that are not finite."
                raise BadParameterError(what, "Check the metric and the dtype of the run.")
            variables[name] = (axes, array)
        return cls(xr.Dataset(variables, coords=coords), provenance)

    def __repr__(self) -> str:
        return _describe(self)

    def _repr_html_(self) -> str:
        about, mark = self.provenance, self.marks[0] if self.marks else None
        part, (source, meaning) = self.parts[0], _source_and_meaning(self)
        rows = [[str(top.node), f"{top.mean:+.3g}", f"[{top.low:+.3g}, {top.high:+.3g}]"] for top in self.top(_LISTED, part, mark=mark)]
        headings = [f"strongest {part}", "mean", "95 % interval"]
        if self.weights_only:
            headings, rows = [headings[0], "score"], [row[:2] for row in rows]
        notes = [f"{meaning}. Run {about.run_id()}."]
        if self.marks:
            notes.append(f"At {mark}; further marks: {', '.join(self.marks[1:]) or 'none'}.")
        flag = about.fitness
        return html_table(
            f"{about.method.replace('_', ' ')} {source}",
            headings,
            rows,
            notes=notes,
            warning="" if flag is None or flag.ready else flag.reason,
        )

    def __getitem__(self, node: Node | str) -> NodeScore:
        """The mean score of one node with its 95 % interval: ``scores["a9.h6"]``. For scores that are resolved by mark, use `nodes`.

        Raises
        ------
        UnknownNameError
            If the node was not scored.
        BadParameterError
            If the text is not the name of a node, or the scores are resolved by mark.
        """
        parsed = parse_node(node) if isinstance(node, str) else node
        for part in self.parts:
            for score in self.nodes(part):
                if score.node == parsed:
                    return score
        raise UnknownNameError("scored node", str(parsed), [f"nodes of {part}" for part in self.parts])

    @property
    def universe(self) -> Universe:
        """All nodes of the scored model."""
        spec = self.provenance.model
        return Universe(spec.n_layers, spec.n_heads, spec.n_kv_heads)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that were scored, in the order of `circuitlab.scores.parts.PARTS`."""
        return tuple(name for name in PARTS if name in self.dataset)

    @property
    def weights_only(self) -> bool:
        """Whether the scores come from weights alone: no prompts, so no pair axis and no intervals."""
        return self.provenance.weights_only

    @property
    def n_pairs(self) -> int:
        """Number of prompt pairs; 0 for scores from weights alone."""
        return 0 if self.weights_only else int(self.dataset.sizes["pair"])

    def require_pairs(self, wanted: str) -> None:
        """Raise `BadParameterError` where the scores come from weights alone; ``wanted`` is what they lack, such as a gap."""
        if self.weights_only:
            raise BadParameterError(*no_pairs(self.provenance.method, wanted))

    @property
    def marks(self) -> tuple[str, ...] | None:
        """Names along the mark axis, or None if each score covers all positions at once."""
        return tuple(map(str, self.dataset["mark"].values)) if "mark" in self.dataset.coords else None

    def values(self, part: str = "heads", *, mark: str | None = None) -> np.ndarray:
        """Scores per pair, shape (pair, layer, ...); with a mark axis and no ``mark``, (pair, mark, layer, ...).

        From weights alone there is one score per node, shape (layer, ...).

        Raises
        ------
        UnknownNameError
            If the part was not scored or the mark does not exist.
        """
        if part not in self.parts:
            raise UnknownNameError("score part", part, self.parts)
        array = self.dataset[part]
        if mark is not None:
            if mark not in (self.marks or ()):
                raise UnknownNameError("mark", mark, self.marks or ())
            array = array.sel(mark=mark)
        return np.asarray(array.values)

    def mean(self, part: str = "heads", *, mark: str | None = None) -> np.ndarray:
        """Mean over pairs, shape (layer, ...) or, with a mark axis and no ``mark``, (mark, layer, ...); float64.

        From weights alone the scores themselves.
        """
        values = self.values(part, mark=mark)
        return values.astype(np.float64) if self.weights_only else values.mean(axis=0, dtype=np.float64)

    def interval(
        self,
        part: str = "heads",
        *,
        mark: str | None = None,
        confidence: float = 0.95,
        method: IntervalMethod = "t",
    ) -> Interval:
        """Confidence interval of the mean over pairs; see `circuitlab.scores.intervals.mean_interval`.

        Limits are NaN for a single pair, and for scores from weights alone.
        """
        if self.weights_only:
            return no_interval(self.mean(part, mark=mark))
        return mean_interval(self.values(part, mark=mark), confidence=confidence, method=method)

    def gap(self, *, confidence: float = 0.95) -> Interval:
        """Mean over pairs of the clean minus the corrupt metric, with its interval.

        Raises
        ------
        BadParameterError
            If the scores come from weights alone.
        """
        self.require_pairs("gap between clean and corrupt prompts")
        difference = self.dataset["clean"].values - self.dataset["corrupt"].values
        return mean_interval(difference, confidence=confidence)

    def fraction(self, part: str = "heads", *, mark: str | None = None) -> np.ndarray:
        """Mean score divided by the mean of ``total``; scores are stored in raw units.

        Raises
        ------
        EmptyGapError
            If the interval of the mean total contains 0, so that the fraction has no meaning.
        BadParameterError
            If the scores come from weights alone, which have no total.
        """
        self.require_pairs("total that scores are a share of")
        total = mean_interval(self.dataset["total"].values)
        if not bool(total.excludes_zero()):
            what = f"The total this score is a share of is {total.mean:.3g} [{total.low:.3g}, {total.high:.3g}]: it may be 0."
            raise EmptyGapError(what, "Use raw units (mean), more pairs, or a task the model can do.")
        return self.mean(part, mark=mark) / float(total.mean)

    def residual(self) -> np.ndarray:
        """The total minus the sum of all parts and the bias, shape (pair,); zero up to rounding for an additive method.

        Raises
        ------
        BadParameterError
            If the method is not additive.
        """
        if not self.provenance.additive:
            what = f"{self.provenance.method!r} is not additive: its scores need not sum to the total."
            raise BadParameterError(what, "Only additive methods, such as logit_attribution, have a residual.")
        self.require_pairs("total that parts sum to")
        total = self.dataset["total"].values.astype(np.float64)
        parts = sum(self.values(part).reshape(self.n_pairs, -1).sum(axis=1, dtype=np.float64) for part in self.parts)
        return total - parts - (self.dataset["bias"].values if "bias" in self.dataset else 0.0)

    def nodes(self, part: str = "heads", *, mark: str | None = None, confidence: float = 0.95) -> list[NodeScore]:
        """Every node of a part with mean and interval, in forward order.

        Raises
        ------
        BadParameterError
            If the scores have a mark axis and no ``mark`` is given.
        """
        if self.marks is not None and mark is None:
            what = f"These scores are resolved by mark ({', '.join(self.marks)})."
            raise BadParameterError(what, "Name one: mark=...")
        mean, low, high = map(np.asarray, self.interval(part, mark=mark, confidence=confidence))
        build = PARTS[part].node
        return [NodeScore(build(*map(int, i)), float(mean[i]), float(low[i]), float(high[i])) for i in np.ndindex(mean.shape)]

    def top(self, k: int = 10, part: str = "heads", *, mark: str | None = None, by: str = "absolute") -> list[NodeScore]:
        """The ``k`` strongest nodes; ties keep forward order.

        Parameters
        ----------
        k : int
            Number of nodes; all nodes if the part has fewer.
        part, mark : str
            The part, and the mark if scores are resolved by mark.
        by : {"absolute", "positive", "negative"}
            Rank by magnitude, by most helpful, or by most harmful.
        """
        orders = {"absolute": lambda s: -abs(s.mean), "positive": lambda s: -s.mean, "negative": lambda s: s.mean}
        if by not in orders:
            raise UnknownNameError("ranking", by, orders)
        return sorted(self.nodes(part, mark=mark), key=orders[by])[:k]

    def sel(self, pairs: Sequence[int] | np.ndarray) -> HeadScores:
        """The same scores on some of the pairs, given as indices or as a boolean mask; the provenance is unchanged.

        Raises
        ------
        BadParameterError
            If the scores come from weights alone.
        """
        self.require_pairs("subset of pairs")
        index = np.asarray(pairs)
        index = np.flatnonzero(index) if index.dtype == bool else index
        return HeadScores(self.dataset.isel(pair=index), self.provenance)

    def to_frame(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """Tidy table with one row per node and mark: part, node, layer, head, mark, mean, low, high, units, n, and where it comes from.

        From weights alone ``low`` and ``high`` are NaN, ``n`` is 0 and ``task`` is ``"weights alone"``.
        """
        import pandas as pd  # noqa: PLC0415 - pandas is slow to import

        return pd.DataFrame(_rows(self, confidence)).astype({"layer": "Int64", "head": "Int64"})

    def save(self, path: str | Path) -> Path:
        """Write one netCDF file in one step and return its path; see `circuitlab.scores.netcdf.write_dataset`."""
        return write_dataset(Path(path), self.dataset, self.provenance, _FORMAT)

    @classmethod
    def load(cls, path: str | Path) -> HeadScores:
        """Read a file written by `save`; foreign, damaged or newer files raise a `ScoreFileError` that names them."""
        dataset, provenance = read_dataset(Path(path), _FORMAT)

        def build() -> HeadScores:
            marks = list(map(str, dataset["mark"].values)) if "mark" in dataset.dims else None
            if not any(name in dataset for name in PARTS):
                raise BadParameterError("It holds no score of any node.", "Store at least one part.")
            return cls.build({str(name): part.values for name, part in dataset.items()}, provenance, marks)

        return built_as_stored(Path(path), build)


def _source_and_meaning(scores: HeadScores) -> tuple[str, str]:
    """What the scores were computed on, and what the numbers mean."""
    about = scores.provenance
    if scores.weights_only:
        return f"from weights alone, {about.model.name}", f"{about.estimand}; in {about.units}; {NO_INTERVAL}"
    source = f"on {about.task.id} ({about.task.variant}), {about.model.name}, {scores.n_pairs} pairs"
    return source, f"{about.estimand}; in {about.units}; positive helps the answer"


def _describe(scores: HeadScores) -> str:
    """Where scores come from, what they mean, their parts and their strongest nodes, in a few lines."""
    about, first, part = scores.provenance, scores.marks[0] if scores.marks else None, scores.parts[0]
    source, meaning = _source_and_meaning(scores)
    lines = [
        f"HeadScores: {about.method} {source}",
        f"  {meaning}",
        "  parts: " + ", ".join(f"{name} {scores.values(name, mark=first).shape}" for name in scores.parts),
    ]
    if scores.marks:
        lines.append(f"  marks: {', '.join(scores.marks)} (choose one with mark=...)")
    limits = "" if scores.weights_only else " [{0.low:+.3g}, {0.high:+.3g}]"
    strongest = ", ".join(f"{top.node} {top.mean:+.3g}{limits.format(top)}" for top in scores.top(_SHOWN, part, mark=first))
    lines.append(f"  strongest {part}{f' at {first}' if first else ''}: {strongest}")
    if about.fitness is not None and not about.fitness.ready:
        lines.append(f"  NOT READY: {about.fitness.reason}")
    return "\n".join(lines)


def _rows(scores: HeadScores, confidence: float) -> list[dict[str, Any]]:
    """One row per node and mark, with its mean, its interval and where the number comes from."""
    about = scores.provenance
    ready = None if about.fitness is None else about.fitness.ready
    shared = {"units": about.units, "n": scores.n_pairs, "method": about.method, "task": about.task.id, "variant": about.task.variant}
    shared |= {"model": about.model.name, "run_id": about.run_id(), "task_ready": ready}
    rows: list[dict[str, Any]] = []
    for part in scores.parts:
        for mark in scores.marks or (None,):
            for entry in scores.nodes(part, mark=mark, confidence=confidence):
                index = entry.node.head if isinstance(entry.node, Head | KVHead) else None
                row = {"part": part, "node": str(entry.node), "layer": getattr(entry.node, "layer", None), "head": index}
                rows.append(row | {"mark": mark or "all", "mean": entry.mean, "low": entry.low, "high": entry.high} | shared)
    return rows
