"""Knockout: replace the value of a node by zero, by a mean, or by its value on the corrupt prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.provenance import digest
from circuitlab.model.interventions.base import Make, NodeEdit
from circuitlab.model.interventions.held import PromptTable, hash_tensor, read_tensor
from circuitlab.model.interventions.kinds import equal_lengths, position_kinds

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.interventions.spots import Spot
    from circuitlab.model.places import Places
    from circuitlab.model.runner import ReadableModel

__all__ = ["Computed", "Knockout", "KnockoutKind"]

KnockoutKind: TypeAlias = Literal["zero", "mean", "mean_over_positions", "mean_by_mark", "mean_by_template", "corrupt"]

_BY_PAIR = {"corrupt", "mean_by_template"}
_TOGETHER = 8


@dataclass(frozen=True, eq=False)
class Knockout(NodeEdit):
    """Knock out nodes: replace their values by values without information about the prompt.

    Parameters
    ----------
    nodes : str, Node, or several
        The nodes; see `NodeEdit`.
    how : {"zero", "mean", "mean_over_positions", "mean_by_mark", "mean_by_template", "corrupt"}
        The new value. ``"mean"``: the mean over the batch's corrupt prompts, position by position if these have the same length, over
        all positions otherwise. ``"mean_over_positions"``: one mean over all positions. ``"mean_by_mark"``: at a mark the mean over that
        mark, elsewhere the mean over all unmarked positions. ``"mean_by_template"``: ``"mean"`` within the prompts of the same template,
        by mark if these differ in length (Wang et al. 2022, arXiv:2211.00593). ``"corrupt"``: the value on the paired corrupt prompt,
        position by position.
    batch : ContrastBatch, optional
        The prompts that means and corrupt values are computed from, when the intervention is bound to a model (`resolved`).
    values : mapping of str to Tensor, optional
        Instead of a batch, each node's value, shape (width,), by the node's name.
    computed : Computed, optional
        The values on one model; set by `resolved`.

    Notes
    -----
    With ``"corrupt"`` and ``"mean_by_template"`` a prompt is looked up in the batch by its tokens, clean prompts first; other prompts are
    refused. These two, and ``"mean"`` over prompts of the same length, have values for positions of the prompt only: generated positions
    are not edited. The other kinds act on generated positions, too.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a1.h1 copies the answer
    >>> without = planted.model.edited(Knockout("a1.h1"))
    >>> gaps = [cl.score(model, planted.batch(4), "attribution_patching").dataset["total"].mean() for model in (planted.model, without)]
    >>> [round(float(gap), 1) for gap in gaps]
    [4.8, -3.1]
    """

    kind: ClassVar[str] = "knockout"
    how: KnockoutKind = "zero"
    batch: ContrastBatch | None = None
    values: Mapping[str, Tensor] | None = None
    computed: Computed | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how not in get_args(KnockoutKind):
            raise UnknownNameError("knockout", self.how, get_args(KnockoutKind))
        if self.values is not None:
            self._read_values()
        elif self.how != "zero" and self.batch is None:
            what = f"A knockout with {self.how!r} is computed from prompts, and was given no batch."
            raise BadParameterError(what, "Give batch=, or each node's value as values=, or use 'zero'.")
        if self.batch is not None and self.values is None and self.how != "zero":
            if self._prompt_only and self.where.only_generated:
                what = f"A knockout with {self.how!r} has no values after the prompt, but positions are 'generated'."
                raise BadParameterError(what, "Use 'zero' or 'mean_over_positions' there.")
            if self.how in _BY_PAIR:
                PromptTable.of(self.batch, corrupt_too=True)  # raises if a prompt does not identify its pair
            position_kinds(self.batch, self.how)  # raises for a batch without templates

    def _read_values(self) -> None:
        values, names = self.values or {}, [str(spot.node) for spot in self.spots]
        if self.how == "zero" or set(values) != set(names):
            what = f"Values of {sorted(values)} were given to a knockout of {names} with {self.how!r}."
            raise BadParameterError(what, "Give one value for each node, by its name, and the kind of value as how=.")
        vectors = {name: read_tensor(value, f"The value of {name}") for name, value in values.items()}
        if bad := [name for name, value in vectors.items() if value.ndim != 1]:
            what = f"The value of {bad[0]} has shape {tuple(vectors[bad[0]].shape)}."
            raise BadParameterError(what, "Give vectors of shape (width,); for values by prompt or position use Replace.")
        self._set("values", vectors)

    def _check_width(self, index: int, spot: Spot, width: int) -> None:  # noqa: ARG002 - values go by name
        given_width = width if self.values is None else len(self.values[str(spot.node)])
        if given_width != width:
            what = f"{spot.node} has values of width {width} at {spot.site.value!r}, and was given width {given_width}."
            raise BadParameterError(what, "Give vectors of the node's width.")

    @property
    def _prompt_only(self) -> bool:
        by_position = self.how == "mean" and self.batch is not None and equal_lengths(self.batch)
        return self.values is None and (self.how in _BY_PAIR or by_position)

    def resolved(self, model: ReadableModel) -> Knockout:
        """The same knockout with its values computed on a model."""
        if self.how == "zero" or self.batch is None or self.values is not None:
            return self
        self.check(model)
        return replace(self, computed=Computed.of(model, self.batch, self.how, self.spots))

    def _chosen(self, places: Places) -> Bool[Tensor, "prompt pos"] | None:
        chosen = self.where.chosen(places)
        if not self._prompt_only:
            return chosen
        at = places.positions
        inside = at <= places.end.to(at.device)[:, None]
        return inside if chosen is None else inside & chosen

    def _make(self, places: Places) -> Make:
        if self.how == "zero":
            return lambda _index, old: torch.zeros_like(old)
        if self.values is not None:
            values = [self.values[str(spot.node)] for spot in self.spots]
            return lambda index, old: values[index].to(old)
        if self.computed is None:
            what = f"The values of a knockout with {self.how!r} have not been computed."
            raise BadParameterError(what, "Bind it to a model: model.edited(knockout), or knockout.resolved(model).")
        tables, rows = self.computed.tables, self.computed.rows(places, self._chosen(places))
        return lambda index, old: tables[index][rows.to(tables[index].device)].to(old)

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"how": self.how}
        if self.values is not None:
            settings["values"] = {name: hash_tensor(value) for name, value in self.values.items()}
        elif self.batch is not None and self.how != "zero":
            settings["prompts"] = self.batch.task.digest
            settings["templates"] = list(self.batch.templates) if self.how == "mean_by_template" else []
            settings["model"] = None if self.computed is None else self.computed.model
        return settings

    def describe(self) -> str:
        """A short description."""
        return self._named(f"knock out ({self.how.replace('_', ' ')})")


@dataclass(frozen=True, eq=False)
class Computed:
    """The new values of a knockout, computed on one model.

    Parameters
    ----------
    tables : sequence of Tensor, shape (kind, width)
        For each node, the mean over each kind of position, in float64.
    counts : Tensor, shape (kind,)
        Number of positions in each mean.
    labels : Tensor of int, shape (pair, pos)
        Kind of each position of the batch.
    batch : ContrastBatch
        The prompts that were averaged over.
    how : str
        The kind of knockout.
    model : str
        Digest of the identity of the model that they were computed on.
    """

    tables: Sequence[Float[Tensor, "kind width"]]
    counts: Float[Tensor, " kind"]
    labels: Int[Tensor, "pair pos"]
    batch: ContrastBatch
    how: KnockoutKind
    model: str

    @classmethod
    def of(cls, model: ReadableModel, batch: ContrastBatch, how: KnockoutKind, spots: Sequence[Spot]) -> Computed:
        """Run every corrupt prompt once and average."""
        return cls.of_kinds(model, batch, (how,), spots)[0]

    @classmethod
    @torch.no_grad()
    def of_kinds(cls, model: ReadableModel, batch: ContrastBatch, kinds: Sequence[KnockoutKind], spots: Sequence[Spot]) -> list[Computed]:
        """Several kinds of values from one run of every corrupt prompt; each is what `of` gives, to the last bit."""
        sums = [_Sums(how, batch) for how in kinds]
        for pairs in _of_one_length(batch):
            group = batch.select(pairs)
            for index, value in enumerate(_captured(model, group, spots)):
                flat = value.flatten(0, 1).double()
                for each in sums:
                    each.add(index, pairs, group.clean.shape[1], flat)
        about = digest(model.spec.identity())
        return [cls(each.means(), each.counts, each.labels, batch, each.how, about) for each in sums]

    def rows(self, places: Places, chosen: Bool[Tensor, "prompt pos"] | None) -> Int[Tensor, "prompt pos"]:
        """Row of the tables for every position of a run.

        Raises
        ------
        BadParameterError
            If a chosen position of a prompt has no value.
        """
        at, length = places.positions, self.labels.shape[1]
        real = at <= places.end.to(at.device)[:, None]
        if self.how in _BY_PAIR:
            pairs = PromptTable.of(self.batch, corrupt_too=True).find(places)
            rows = self.labels[pairs[:, None], at.clamp(max=length - 1).cpu()]
        elif self.how == "mean_by_mark":
            rows = self._by_mark(places)
        elif self.how == "mean" and equal_lengths(self.batch):
            late = real & (at >= length)
            late = late if chosen is None else late & chosen
            if bool(late.any()):
                what = f"A mean by position over prompts of {length} tokens has no value for prompts of {int(places.end.max()) + 1}."
                raise BadParameterError(what, "Use 'mean_over_positions', or choose positions that the batch's prompts have.")
            rows = at.clamp(max=length - 1).cpu()
        else:
            rows = torch.zeros_like(at).cpu()
        empty = (self.counts[rows] == 0) & (real if chosen is None else real & chosen).cpu()
        if bool(empty.any()):
            what = f"No corrupt prompt has a position of the kind that {self.how!r} averages over here."
            raise BadParameterError(what, "Use 'mean_over_positions', or a batch with unmarked positions.")
        return rows

    def _by_mark(self, places: Places) -> Int[Tensor, "prompt pos"]:
        at = places.positions.cpu()
        rows = torch.zeros(len(places.end), at.shape[1], dtype=torch.long)
        for number, name in reversed(list(enumerate(sorted(self.batch.marks), start=1))):
            position = places.end if name == "END" else places.mark(name)
            rows[at == position.cpu()[:, None]] = number
        return rows


class _Sums:
    """Sums of nodes' values over positions of each kind."""

    def __init__(self, how: KnockoutKind, batch: ContrastBatch) -> None:
        self.how, self.labels = how, _labels(batch, how)
        self.kinds = int(self.labels.max()) + 1
        self.counts = torch.bincount(self.labels[batch.mask], minlength=self.kinds).double()
        self._tables: dict[int, Tensor] = {}

    def add(self, index: int, pairs: Sequence[int], length: int, flat: Float[Tensor, "place width"]) -> None:
        """The values of node number ``index`` at every position of some pairs."""
        kind = self.labels[list(pairs), :length].flatten().to(flat.device)
        if index not in self._tables:
            self._tables[index] = flat.new_zeros(self.kinds, flat.shape[1])
        self._tables[index].index_add_(0, kind, flat)

    def means(self) -> list[Float[Tensor, "kind width"]]:
        """For each node, the mean over each kind of position."""
        shares = self.counts.clamp(min=1)[:, None]
        return [table / shares.to(table.device) for _, table in sorted(self._tables.items())]


def _labels(batch: ContrastBatch, how: KnockoutKind) -> Int[Tensor, "pair pos"]:
    if how == "corrupt":
        return torch.arange(batch.clean.numel()).view(batch.clean.shape)
    return torch.zeros_like(batch.clean) if how == "mean_over_positions" else position_kinds(batch, how)


def _of_one_length(batch: ContrastBatch) -> Iterator[list[int]]:
    """Pairs of the same length in small groups, so that no prompt of a run is padded."""
    ends = batch.end.tolist()
    for end in sorted(set(ends)):
        pairs = [pair for pair, other in enumerate(ends) if other == end]
        yield from (pairs[start : start + _TOGETHER] for start in range(0, len(pairs), _TOGETHER))


def _captured(model: ReadableModel, batch: ContrastBatch, spots: Sequence[Spot]) -> Iterator[Float[Tensor, "pair pos width"]]:
    """The value of each node on the corrupt prompts."""
    layers: dict[Any, list[int]] = {}
    for spot in spots:
        layers.setdefault(spot.site, [])
        layers[spot.site] += [] if spot.layer in layers[spot.site] else [spot.layer]
    captured = {site: model.capture(batch.corrupt, [site], layers=numbers, marks=batch.marks)[site] for site, numbers in layers.items()}
    for spot in spots:
        value = captured[spot.site][:, layers[spot.site].index(spot.layer)]
        yield value if spot.head is None else value[:, :, spot.head]
