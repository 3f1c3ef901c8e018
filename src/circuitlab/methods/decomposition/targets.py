"""Relevance of sources to later heads: how much of a head's z, query, key or value is due to each source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head, KVHead, parse_node
from circuitlab.core.progress import step
from circuitlab.execute.routes import universe_of
from circuitlab.methods.decomposition.forward import left_range, passes, run_layers
from circuitlab.methods.decomposition.prompts import Prompts, prompts_of, sources_together
from circuitlab.methods.decomposition.relevance import carries, require_sources
from circuitlab.methods.decomposition.source import Options, Source

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.methods.decomposition.parts import Parts
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["Measure", "Target", "normalised_by_layer", "relevance_to_targets"]

Field: TypeAlias = Literal["z", "q", "k", "v"]
Measure: TypeAlias = Literal["ratio", "share"]


@dataclass(frozen=True)
class Target:
    """One head's activation, whose relevant part is measured.

    Parameters
    ----------
    head : Head or KVHead
        A key/value head for keys and values, a query head otherwise.
    field : {"z", "q", "k", "v"}
        Its output before the output projection, or its query, key or value as projected.
    at : tuple of str or int
        Positions at which it is measured, as in `Source`; every position if empty.

    Raises
    ------
    BadParameterError
        If the field does not belong to this kind of head.
    """

    head: Head | KVHead
    field: Field = "z"
    at: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        kinds = {"z": Head, "q": Head, "k": KVHead, "v": KVHead}
        if self.field not in kinds:
            raise UnknownNameError("field of a target", str(self.field), kinds)
        if not isinstance(self.head, kinds[self.field]):
            what = f"{self.head} has no {self.field}."
            raise BadParameterError(what, "Use a query head (a9.h6) for z and q, a key/value head (a9.kv2) for k and v.")

    def __str__(self) -> str:
        port = "" if self.field == "z" else f"<{self.field}>"
        return f"{self.head}{port}" + (f" at {', '.join(map(str, self.at))}" if self.at else "")

    @classmethod
    def parse(cls, text: str, at: tuple[str | int, ...] = ()) -> Target:
        """Read ``"a9.h6"`` (its z), ``"a9.h6<q>"``, ``"a9.kv2<k>"`` or ``"a9.kv2<v>"``.

        Raises
        ------
        BadParameterError
            If the text is not a head, or names a field that the head does not have.
        """
        name, _, rest = text.partition("<")
        node = parse_node(name)
        if not isinstance(node, Head | KVHead):
            what = f"{text!r} is not a head."
            raise BadParameterError(what, "Write a9.h6 (its z), a9.h6<q>, a9.kv2<k> or a9.kv2<v>.")
        return cls(node, rest.removesuffix(">") or "z", at)  # type: ignore[arg-type]


def relevance_to_targets(
    model: Model,
    batch: ContrastBatch,
    sources: Sequence[Source],
    targets: Sequence[Target],
    options: Options | None = None,
    *,
    measure: Measure = "ratio",
) -> Float[np.ndarray, "source target pair"]:
    """Size of the relevant part of each target relative to its irrelevant part, without a sign.

    Parameters
    ----------
    model, batch : Model, ContrastBatch
        The model and the pairs.
    sources : sequence of Source
        Each source is decomposed separately.
    targets : sequence of Target
        Activations of later heads.
    options : Options, optional
        Rule and baseline.
    measure : {"ratio", "share"}
        ``"ratio"``: the sum over positions of |b|_1 / |c|_1, as in the paper; ``"share"``: of |b|_1 / (|b|_1 + |c|_1), as in the authors'
        code. Positions at which both parts are zero count 0.

    Returns
    -------
    ndarray, shape (source, target, pair)
        0 where the source does not come before the target, or contains its head.

    Raises
    ------
    BadParameterError
        If there are no sources or targets, or the model or the prompts lack one.
    UnknownNameError
        If there is no such measure or mark.

    Notes
    -----
    Cost: as `relevance_to_metric`, but every pass ends at the last target's layer.
    """
    require_sources(model, sources)
    if measure not in {"ratio", "share"}:
        raise UnknownNameError("measure", measure, ["ratio", "share"])
    if not targets:
        raise BadParameterError("No target was given.", "Name at least one head.")
    if outside := [str(target) for target in targets if target.head not in universe_of(model)]:
        what = f"{', '.join(outside)} lie outside {universe_of(model)}."
        raise BadParameterError(what, "Count layers and heads from 0.")
    settings, last = options or Options(), max(target.head.layer for target in targets)
    relevance = np.zeros((len(sources), len(targets), batch.n_pairs))
    reachable = [i for i, source in enumerate(sources) if source.layer <= last]
    done = 0
    for pairs, prompts in prompts_of(model, batch, sources, settings):
        for chosen in passes([sources[i] for i in reachable], sources_together(model, prompts, settings)):
            indices = [reachable[i] for i in chosen]
            reader = _Reader(prompts, targets, measure, np.zeros((len(indices), len(targets), len(pairs))))
            relevance[np.ix_(indices, range(len(targets)), pairs)] = _measured(reader, [sources[i] for i in indices], settings, last)
        done += len(pairs)
        step(done, batch.n_pairs)
    for row, source in enumerate(sources):
        relevance[row, [target.head in source.nodes for target in targets]] = 0.0
    return relevance


def _measured(reader: _Reader, sources: Sequence[Source], options: Options, last: int) -> np.ndarray:
    """Relevance of sources to all targets, (source, target, pair), with bounded norms where parts leave the activation's range."""
    rule, carry = options.rule, carries(sources, options)
    left = left_range(reader.prompts, run_layers(rule, reader.prompts, sources, seen=reader, last=last, carry=carry))
    rows = np.flatnonzero(left.any(1))
    if rule.norm == "held" and len(rows):
        again = replace(reader, values=np.zeros_like(reader.values[rows]))
        run_layers(replace(rule, norm="bounded"), reader.prompts, [sources[int(row)] for row in rows], seen=again, last=last, carry=carry)
        reader.values[rows] = np.where(left[rows][:, None], again.values, reader.values[rows])
    return reader.values


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads the targets during a pass."""

    prompts: Prompts
    targets: Sequence[Target]
    measure: Measure
    values: np.ndarray

    def __call__(self, layer: int, field: str, parts: Parts) -> None:
        for column, target in enumerate(self.targets):
            if (target.head.layer, target.field) == (layer, field):
                places = self.prompts.places(Source((target.head,), target.at))
                value = self._size(parts, target.head.head, places)
                self.values[: len(value), column] = value.double().cpu().numpy()

    def _size(self, parts: Parts, head: int, places: Tensor) -> Float[Tensor, "source pair"]:
        relevant, irrelevant = (part[..., head, :].abs().sum(-1) for part in (parts.relevant, parts.irrelevant))
        whole = relevant + irrelevant if self.measure == "share" else irrelevant
        size = (relevant / whole.clamp(min=1e-30)).masked_fill(relevant == 0, 0.0)
        return (size * places).sum(-1)


def normalised_by_layer(values: Float[np.ndarray, " source"], sources: Sequence[Source]) -> Float[np.ndarray, " source"]:
    """Each relevance divided by the mean over the sources of its layer (published); 0 in layers in which nothing is relevant."""
    values = np.asarray(values, dtype=float)
    layers = np.array([source.layer for source in sources])
    means = np.array([np.abs(values[layers == layer]).mean() for layer in layers])
    return np.divide(values, means, out=np.zeros_like(values), where=means > 0)
