"""KeepKeys: take keys out of the cache of key/value heads, exactly, and put one compensation token in their place."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.nodes import KVHead
from circuitlab.model.interventions.base import PatternEdit, RowMake
from circuitlab.model.interventions.held import hash_tensor, read_tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from jaxtyping import Bool, Float
    from torch import Tensor

    from circuitlab.core.nodes import Node
    from circuitlab.model.interventions.spots import Spot
    from circuitlab.model.places import Places
    from circuitlab.model.runner import ReadableModel

__all__ = ["KeepKeys"]

_ROUNDING = 1e-5
"""What rounding may leave of a row's sum of 1; more is the weight of an attention sink."""
_MOST_AXES = 3


@dataclass(frozen=True, eq=False)
class KeepKeys(PatternEdit):
    """Take keys out of the cache of key/value heads: attention is what the softmax over the keys that are kept gives.

    Parameters
    ----------
    heads : str, KVHead, or several
        Key/value heads; all query heads of their groups are edited.
    sinks : int
        The first so many keys are kept.
    window : int
        The last so many keys of each query are kept, its own included.
    keep : Tensor of bool, shape (key,), (head, key) or (head, query, key), optional
        Other keys that are kept, by position from 0; keys beyond its end are kept, and queries beyond its end keep every key.
    compensate : bool
        Whether one token stands for those that are dropped: with the mean of their keys and of their values, counted as often as they are
        (RazorAttention).
    gate : float or Tensor, shape () or (head,), optional
        Share of the attention to all keys that is mixed with that to the kept ones, from 0 to 1 (DuoAttention): 1 changes nothing, bit for
        bit; 0, or none, leaves the kept keys alone. A `torch.nn.Parameter` trains.
    positions : str, int, or several
        Queries whose keys are dropped; see `Positions`.
    group : int, optional
        Query heads of a key/value head; set by `resolved`.

    Notes
    -----
    Weights are those after the softmax: without the dropped keys the others keep their ratios, so that dividing them by their sum is
    exact. What a row's sum lacks of 1, in models with attention sinks, keeps its ratio, too. A score is linear in the key: the score of
    the mean key is the mean of the scores, and its weight their geometric mean; each dropped key gets that weight. (Where scores are
    capped or biased by position, this is the mean of those.) A dropped key that the model's mask allows, and whose weight is 0, because it
    is too small for a number or was taken by an earlier intervention, has no score that could be averaged: with ``compensate`` it is
    refused. A row of which nothing is dropped is left as it is, to the last bit.

    References
    ----------
    Xiao et al. (2023), StreamingLLM, arXiv:2309.17453, for sinks and a window; Tang et al. (2024), RazorAttention, arXiv:2407.15891, for
    the compensation token; Xiao et al. (2024), DuoAttention, arXiv:2410.10819, for the gate.

    Examples
    --------
    >>> KeepKeys("a1.kv0", sinks=4, window=16, compensate=True).describe()
    'keep 4 first and 16 last keys and their mean a1.kv0'
    """

    kind: ClassVar[str] = "keep_keys"
    sinks: int = field(default=0, kw_only=True)
    window: int = field(default=1, kw_only=True)
    keep: Tensor | None = field(default=None, kw_only=True)
    compensate: bool = field(default=False, kw_only=True)
    gate: Tensor | float | None = field(default=None, kw_only=True)
    group: int | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sinks < 0 or self.window < 1:
            what = f"sinks={self.sinks} and window={self.window} cannot be kept."
            raise BadParameterError(what, "Keep 0 first keys or more, and 1 last key or more: a query sees its own.")
        if self.keep is not None:
            self._set("keep", _read_keep(self.keep, len(self.spots)))
        if self.gate is not None:
            self._set("gate", _read_gate(self.gate, len(self.spots)))

    def _refuse(self, node: Node) -> None:
        if not isinstance(node, KVHead):
            what = f"{node} has no cache of its own."
            raise BadParameterError(what, "Name key/value heads, for example a9.kv2; the query heads of a group share one cache.")

    @property
    def _needs_mask(self) -> tuple[str, str] | None:
        return ("A compensation token", "Use compensate=False.") if self.compensate else None

    def resolved(self, model: ReadableModel) -> Self:
        """The same edit with the size of the model's groups, and its mask where a compensation token needs it."""
        self.check(model)
        return replace(super().resolved(model), group=model.spec.n_heads // model.spec.n_kv_heads)

    def _query_heads(self, spot: Spot) -> Sequence[int]:
        group, head = self.group or 0, spot.head or 0
        return range(head * group, (head + 1) * group)

    def _make_rows(self, places: Places, chosen: Bool[Tensor, "prompt pos"] | None) -> RowMake:
        if self.group is None or (self.compensate and self.visible is None):
            what = "KeepKeys does not know which query heads share a key/value head, and which keys they see."
            raise BadParameterError(what, "Bind it to a model: model.edited(keep_keys), or keep_keys.resolved(model).")
        # Not inside the tap: this may run the model, which must not happen in the middle of its own run.
        visible = self.visible(places.tokens.shape[1]) if self.compensate and self.visible is not None else None

        def make(index: int, layer: int, old: Tensor) -> Tensor:
            drop = self._dropped(index, places, old.shape[-1]).to(old.device)
            drop = drop if chosen is None else drop & chosen.to(old.device)[..., None]
            if visible is not None:
                seen = visible[layer]
                drop = drop & seen[places.positions.to(seen.device), : old.shape[-1]].to(old.device)
            wide = old.to(torch.promote_types(old.dtype, torch.float32))
            return self._mixed(index, wide, self._without(wide, drop))

        return make

    def _dropped(self, index: int, places: Places, keys: int) -> Bool[Tensor, "prompt query key"]:
        """Earlier keys of each query that are not kept."""
        query, key = places.positions[..., None], torch.arange(keys, device=places.positions.device)
        kept = (key < self.sinks) | (key > query - self.window)
        if self.keep is not None:
            own = self.keep if self.keep.ndim == 1 else self.keep[index]
            rows = own[None] if own.ndim == 1 else own
            listed = torch.ones(max(len(rows), int(query.max()) + 1 if own.ndim > 1 else 1), keys, dtype=torch.bool, device=key.device)
            listed[: len(rows), : own.shape[-1]] = rows.to(key.device)[:, :keys]
            kept = kept | (listed[0] if own.ndim == 1 else listed[places.positions])
        return ~kept & (key <= query)

    def _without(self, old: Tensor, drop: Bool[Tensor, "prompt query key"]) -> Float[Tensor, "*lead prompt query key"]:
        if self.compensate and bool((drop & (old == 0)).any()):
            what = f"A key that {self.describe()!r} drops has weight 0: the mean of the scores is not known."
            raise ModelError(what, "Load the model in float32, apply it before edits that block keys, or use compensate=False.")
        drop = drop & (old > 0)
        new = old.masked_fill(drop, 0.0)
        rest = 1.0 - old.sum(-1, keepdim=True)
        rest = torch.where(rest > _ROUNDING, rest, 0.0)
        if self.compensate:
            count = drop.sum(-1, keepdim=True).clamp(min=1)
            logs = torch.where(drop, old, 1.0).log()
            new = torch.where(drop, (logs.sum(-1, keepdim=True) / count).exp(), new)
        some, left = drop.any(-1, keepdim=True), new.sum(-1, keepdim=True) + rest
        if bool((some & (left <= 0)).any()):
            what = f"All weight of a query lies on keys that {self.describe()!r} drops: what is left is below the smallest number."
            raise ModelError(what, "Keep the first key (sinks=1), or load the model in float32.")
        return torch.where(some, new / torch.where(some, left, 1.0), old)

    def _mixed(self, index: int, old: Tensor, new: Tensor) -> Tensor:
        if self.gate is None:
            return new
        gate: Tensor = self.gate  # type: ignore[assignment]
        share = (gate[index] if gate.ndim else gate).to(old)
        # Where nothing was dropped, rounding of the sum must not change a weight.
        return torch.where(new == old, old, share * old + (1 - share) * new)

    def _settings(self) -> dict[str, Any]:
        settings = {"sinks": self.sinks, "window": self.window, "compensate": self.compensate}
        if self.gate is not None:
            settings["gate"] = hash_tensor(self.gate)  # type: ignore[arg-type, assignment]
        return {"keep": None if self.keep is None else hash_tensor(self.keep), **settings}

    def describe(self) -> str:
        """A short description."""
        others = "" if self.keep is None else ", chosen keys"
        mean = " and their mean" if self.compensate else ""
        mixed = "" if self.gate is None else ", by a gate,"
        return self._named(f"keep {self.sinks} first and {self.window} last keys{others}{mean}{mixed}")


def _read_keep(keep: Tensor, heads: int) -> Tensor:
    values = torch.as_tensor(keep)
    if values.dtype != torch.bool or not 1 <= values.ndim <= _MOST_AXES or (values.ndim > 1 and len(values) != heads):
        what = f"keep has type {values.dtype} and shape {tuple(values.shape)} for {heads} heads."
        raise BadParameterError(what, "Give booleans of shape (key,), or (head, key) or (head, query, key) with one entry for each head.")
    return values.detach().clone()


def _read_gate(gate: Tensor | float, heads: int) -> Tensor:
    tensor = read_tensor(gate, "The gate")
    if tensor.ndim > 1 or (tensor.ndim == 1 and len(tensor) != heads):
        what = f"A gate of shape {tuple(tensor.shape)} was given to {heads} heads."
        raise BadParameterError(what, "Give one number, or one for each head.")
    values = tensor.detach()
    if bool(((values < 0) | (values > 1)).any()):
        raise BadParameterError(f"A gate was to be {values.tolist()}.", "Give shares from 0 to 1.")
    return tensor
