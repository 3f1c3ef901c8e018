"""KeepKeys: take keys out of the cache of key/value heads, exactly, and put one compensation token in their place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.nodes import KVHead
from circuitlab.model.interventions.base import Intervention
from circuitlab.model.interventions.held import hash_tensor
from circuitlab.model.interventions.positions import Positions, PositionSpec
from circuitlab.model.interventions.spots import NodeSpec, Spot, read_nodes
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from circuitlab.model.places import Places, Tap
    from circuitlab.model.runner import ReadableModel

__all__ = ["KeepKeys"]

_ROUNDING = 1e-5
"""What rounding may leave of a row's sum of 1; more is the weight of an attention sink."""


@dataclass(frozen=True, eq=False)
class KeepKeys(Intervention):
    """Take keys out of the cache of key/value heads: attention is what the softmax over the keys that are kept gives.

    Parameters
    ----------
    heads : str, KVHead, or several
        Key/value heads; all query heads of their groups are edited.
    sinks : int
        The first so many keys are kept.
    window : int
        The last so many keys of each query are kept, its own included.
    keep : Tensor of bool, shape (key,) or (head, key), optional
        Other keys that are kept, by position from 0; keys beyond its end are kept.
    compensate : bool
        Whether one token stands for those that are dropped: with the mean of their keys and of their values, counted as often as they are
        (RazorAttention).
    positions : str, int, or several
        Queries whose keys are dropped; see `Positions`.
    group : int, optional
        Query heads of a key/value head; set by `resolved`.

    Notes
    -----
    Weights are those after the softmax: without the dropped keys the others keep their ratios, so that dividing them by their sum is
    exact. What a row's sum lacks of 1, in models with attention sinks, keeps its ratio, too. A score is linear in the key: the score of
    the mean key is the mean of the scores, and its weight their geometric mean; each dropped key gets that weight. (Where scores are
    capped or biased by position, this is the mean of those.) Keys of weight exactly 0 count as not visible. A row of which nothing is
    dropped is left as it is, to the last bit.

    References
    ----------
    Xiao et al. (2023), StreamingLLM, arXiv:2309.17453, for sinks and a window; Tang et al. (2024), RazorAttention, arXiv:2407.15891, for
    the compensation token.

    Examples
    --------
    >>> KeepKeys("a1.kv0", sinks=4, window=16, compensate=True).describe()
    'keep 4 first and 16 last keys and their mean a1.kv0'
    """

    kind: ClassVar[str] = "keep_keys"
    heads: NodeSpec
    sinks: int = field(default=0, kw_only=True)
    window: int = field(default=1, kw_only=True)
    keep: Tensor | None = field(default=None, kw_only=True)
    compensate: bool = field(default=False, kw_only=True)
    positions: PositionSpec = field(default="all", kw_only=True)
    group: int | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        nodes = read_nodes(self.heads)
        object.__setattr__(self, "heads", nodes)
        object.__setattr__(self, "positions", Positions.of(self.positions).names)
        if wrong := [str(node) for node in nodes if not isinstance(node, KVHead)]:
            what = f"{wrong[0]} has no cache of its own."
            raise BadParameterError(what, "Name key/value heads, for example a9.kv2; the query heads of a group share one cache.")
        if self.sinks < 0 or self.window < 1:
            what = f"sinks={self.sinks} and window={self.window} cannot be kept."
            raise BadParameterError(what, "Keep 0 first keys or more, and 1 last key or more: a query sees its own.")
        if self.keep is not None:
            object.__setattr__(self, "keep", _read_keep(self.keep, len(nodes)))

    @cached_property
    def spots(self) -> tuple[Spot, ...]:
        """Where each head's patterns are; the number is that of the key/value head."""
        nodes: tuple[KVHead, ...] = self.heads  # type: ignore[assignment]
        return tuple(Spot(node, Site.PATTERN, node.layer, node.head) for node in nodes)

    @property
    def targets(self) -> frozenset[tuple[Site, int]]:
        """Sites and layers whose values it changes."""
        return frozenset(spot.target for spot in self.spots)

    def check(self, model: ReadableModel) -> None:
        """Raise unless the model has every key/value head, and editable patterns."""
        for spot in self.spots:
            spot.check(model)

    def resolved(self, model: ReadableModel) -> KeepKeys:
        """The same edit with the size of the model's groups."""
        self.check(model)
        return replace(self, group=model.spec.n_heads // model.spec.n_kv_heads)

    def tap(self, places: Places) -> Tap:
        """The tap that applies it to the prompts and positions of a run."""
        if self.group is None:
            what = "KeepKeys does not know which query heads share a key/value head."
            raise BadParameterError(what, "Bind it to a model: model.edited(keep_keys), or keep_keys.resolved(model).")
        chosen, group = Positions.of(self.positions).chosen(places), self.group
        by_layer: dict[int, list[tuple[int, Spot]]] = {}
        for index, spot in enumerate(self.spots):
            by_layer.setdefault(spot.layer, []).append((index, spot))
        nowhere = chosen is not None and not bool(chosen.any())

        def tap(site: Site, layer: int, value: Tensor) -> Tensor:
            if site is not Site.PATTERN or layer not in by_layer or nowhere:
                return value
            out = value.clone()
            for index, spot in by_layer[layer]:
                heads = slice(spot.head * group, (spot.head + 1) * group)  # type: ignore[operator]
                drop = self._dropped(index, places, value.shape[-1]).to(value.device)
                drop = drop if chosen is None else drop & chosen.to(value.device)[..., None]
                out[..., heads, :, :] = self._without(value[..., heads, :, :], drop[:, None])
            return out

        return tap

    def _dropped(self, index: int, places: Places, keys: int) -> Bool[Tensor, "prompt query key"]:
        """Earlier keys of each query that are not kept."""
        query, key = places.positions[..., None], torch.arange(keys, device=places.positions.device)
        kept = (key < self.sinks) | (key > query - self.window)
        if self.keep is not None:
            own = self.keep if self.keep.ndim == 1 else self.keep[index]
            listed = torch.ones(keys, dtype=torch.bool, device=key.device)
            listed[: len(own)] = own.to(key.device)[:keys]
            kept = kept | listed
        return ~kept & (key <= query)

    def _without(self, old: Tensor, drop: Bool[Tensor, "prompt 1 query key"]) -> Float[Tensor, "*lead prompt head query key"]:
        wide = old.to(torch.promote_types(old.dtype, torch.float32))
        drop = drop & (wide > 0)
        new = wide.masked_fill(drop, 0.0)
        rest = 1.0 - wide.sum(-1, keepdim=True)
        rest = torch.where(rest > _ROUNDING, rest, 0.0)
        if self.compensate:
            count = drop.sum(-1, keepdim=True).clamp(min=1)
            logs = torch.where(drop, wide, 1.0).log()
            new = torch.where(drop, (logs.sum(-1, keepdim=True) / count).exp(), new)
        some, left = drop.any(-1, keepdim=True), new.sum(-1, keepdim=True) + rest
        if bool((some & (left <= 0)).any()):
            what = f"All weight of a query lies on keys that {self.describe()!r} drops: what is left is below the smallest number."
            raise ModelError(what, "Keep the first key (sinks=1), or load the model in float32.")
        return torch.where(some, new / torch.where(some, left, 1.0), wide).to(old)

    def identity(self) -> dict[str, Any]:
        """Kind, heads, queries and settings."""
        return {
            "kind": self.kind,
            "nodes": [[str(spot.node), spot.site.value] for spot in self.spots],
            "positions": list(Positions.of(self.positions).names),
            "keep": None if self.keep is None else hash_tensor(self.keep),
            "sinks": self.sinks,
            "window": self.window,
            "compensate": self.compensate,
        }

    def describe(self) -> str:
        """A short description."""
        heads = ",".join(str(spot.node) for spot in self.spots)
        others = "" if self.keep is None else ", chosen keys"
        mean = " and their mean" if self.compensate else ""
        return f"keep {self.sinks} first and {self.window} last keys{others}{mean} {heads}{Positions.of(self.positions).describe()}"


def _read_keep(keep: Tensor, heads: int) -> Tensor:
    values = torch.as_tensor(keep)
    if values.dtype != torch.bool or not 1 <= values.ndim <= 2 or (values.ndim == 2 and len(values) != heads):  # noqa: PLR2004 - head, key
        what = f"keep has type {values.dtype} and shape {tuple(values.shape)} for {heads} heads."
        raise BadParameterError(what, "Give booleans of shape (key,), or (head, key) with one row for each head.")
    return values.detach().clone()
