"""EditPattern: replace rows of the attention pattern, make them uniform, move attention between tokens, scale it, or block it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head
from circuitlab.model.interventions.base import PatternEdit, RowMake
from circuitlab.model.interventions.held import hash_tensor, read_tensor
from circuitlab.model.interventions.positions import Positions, PositionSpec

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from circuitlab.core.nodes import Node
    from circuitlab.model.places import Places

__all__ = ["EditPattern", "PatternChange", "Rest"]

PatternChange: TypeAlias = Literal["replace", "uniform", "move", "scale", "block"]
Rest: TypeAlias = Literal["renormalise", "others", "drop"]

_SEEING = {"uniform", "move"}
_NEEDS = {"replace": {"weights"}, "uniform": set(), "move": {"keys", "to"}, "scale": {"keys", "factor"}, "block": {"keys"}}
_GIVEN = ("keys", "to", "weights", "factor")


@dataclass(frozen=True, eq=False)
class EditPattern(PatternEdit):
    """Edit rows of the attention pattern of heads.

    Parameters
    ----------
    heads : str, Head, or several
        Query heads.
    how : {"replace", "uniform", "move", "scale", "block"}
        ``"replace"``: rows become ``weights``. ``"uniform"``: every visible key gets the same weight, and the row sums to 1. ``"move"``:
        the weight of ``keys`` is divided equally among the visible keys in ``to``; the row's sum stays, and a row without a visible key
        in ``to`` is not edited. ``"scale"``: the weight of ``keys`` is multiplied by ``factor``. ``"block"``: it becomes 0.
    keys, to : str, int, or several
        Keys, given like ``positions``.
    weights : Tensor, shape (key,), (query, key) or (head, query, key)
        Attention weights, by position from 0. Nonzero weights of keys after the query are refused.
    factor : float or Tensor, shape () or (head,), optional
        With ``"scale"``: 0 or larger; 1 changes nothing, bit for bit. A `torch.nn.Parameter` trains.
    rest : {"renormalise", "others", "drop"}
        What becomes of the rest of a row. ``"renormalise"``: with ``"block"``, the other keys are scaled up to the row's former sum; with
        ``"scale"``, all keys are scaled to it together, as if the logarithm of the factor were added to the scores of ``keys``
        (ZeroTuning). ``"others"``, with ``"scale"`` only: the other keys are scaled to the row's former sum, so that ``keys`` have exactly
        ``factor`` times their weight (ACT); a row without other keys is not edited, and factors above 1 are refused. ``"drop"``: the other
        keys keep their weights. A row whose keys are all blocked, or scaled by 0, is zero.
    positions : str, int, or several
        Queries whose rows are edited; see `Positions`.
    visible : callable, optional
        The keys that each query of a model can attend to; set by `resolved`.

    Notes
    -----
    Visible are the keys that the model's mask allows (causal, sliding window), once the intervention is bound to a model (`resolved`).
    Unbound, keys of weight exactly 0 count as not visible. A row of a model with attention sinks may sum to less than 1; the sink's own
    weight is never edited.

    Examples
    --------
    >>> EditPattern("a1.h1", "block", keys="CONTENT").describe()
    'pattern block CONTENT a1.h1'
    """

    kind: ClassVar[str] = "pattern"
    how: PatternChange
    keys: PositionSpec | None = field(default=None, kw_only=True)
    to: PositionSpec | None = field(default=None, kw_only=True)
    weights: Tensor | None = field(default=None, kw_only=True)
    factor: Tensor | float | None = field(default=None, kw_only=True)
    rest: Rest = field(default="renormalise", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = len(self.spots)
        for name, value, known in (("pattern edit", self.how, get_args(PatternChange)), ("value of rest", self.rest, get_args(Rest))):
            if value not in known:
                raise UnknownNameError(name, str(value), known)
        given_names = {name for name in _GIVEN if getattr(self, name) is not None}
        if given_names != _NEEDS[self.how]:
            what = (
                f"EditPattern {self.how!r} was given {sorted(given_names) or 'nothing'}; it needs {sorted(_NEEDS[self.how]) or 'nothing'}."
            )
            raise BadParameterError(what, "See help(circuitlab.interventions.EditPattern).")
        for name in given_names & {"keys", "to"}:
            value = getattr(self, name)
            self._set(name, () if value in ((), []) else Positions.of(value).names)
        if self.weights is not None:
            self._set("weights", _read_weights(self.weights, heads))
        if self.factor is not None:
            self._set("factor", _read_factor(self.factor, heads, self.rest))
        elif self.rest == "others":
            raise BadParameterError(f"EditPattern {self.how!r} was given rest='others'.", "Only 'scale' has it; use 'renormalise'.")

    def _refuse(self, node: Node) -> None:
        if not isinstance(node, Head):
            raise BadParameterError(f"{node} has no attention pattern.", "Name query heads, for example a9.h6; each has its own pattern.")

    @property
    def _needs_mask(self) -> tuple[str, str] | None:
        if self.how not in _SEEING:
            return None
        return f"EditPattern {self.how!r}", "Use 'replace' with your own weights, or 'block': they act on the model itself."

    def _make_rows(self, places: Places, chosen: Bool[Tensor, "prompt pos"] | None) -> RowMake | None:  # noqa: ARG002 - rows by place
        return None if self.keys == () else _Rows(self, places).edited

    def _settings(self) -> dict[str, Any]:
        settings = {"how": self.how, "keys": self.keys, "to": self.to, "rest": self.rest}
        if self.factor is not None:
            settings["factor"] = hash_tensor(self.factor)  # type: ignore[arg-type]
        return {"weights": None if self.weights is None else hash_tensor(self.weights), **settings}

    def describe(self) -> str:
        """A short description."""
        keys = "" if self.keys is None else " " + ",".join(map(str, self.names("keys")))
        to = "" if self.to is None else " to " + ",".join(map(str, self.names("to")))
        factor: Any = self.factor
        by = "" if factor is None else f" by {float(factor):g}" if factor.ndim == 0 else " by head"
        return self._named(f"pattern {self.how}{keys}{to}{by}")

    def names(self, which: Literal["keys", "to"]) -> tuple[str | int, ...]:
        """The names or numbers of the keys."""
        value: tuple[str | int, ...] | None = getattr(self, which)
        return value or ()


def _read_factor(factor: Any, count: int, rest: Rest) -> Tensor:
    tensor = read_tensor(factor, "factor")
    if tensor.ndim > 1 or (tensor.ndim == 1 and len(tensor) != count):
        what = f"A factor of shape {tuple(tensor.shape)} was given to {count} heads."
        raise BadParameterError(what, "Give one number, or one for each head.")
    values = tensor.detach()
    if bool((values < 0).any()) or (rest == "others" and bool((values > 1).any())):
        largest = " to 1" if rest == "others" else ""
        what = f"Attention weights were to be scaled by {values.tolist()} with rest={rest!r}."
        raise BadParameterError(what, f"Give factors from 0{largest}; no weight may become negative.")
    return tensor


def _read_weights(values: Tensor, heads: int) -> Tensor:
    weights = read_tensor(values, "The weights")
    if not 1 <= weights.ndim <= 3 or (weights.ndim == 3 and weights.shape[0] != heads):  # noqa: PLR2004 - head, query, key
        what = f"Weights of shape {tuple(weights.shape)} were given for the patterns of {heads} heads."
        raise BadParameterError(what, "Give (key,), (query, key), or (head, query, key) with one entry for each head.")
    return weights


@dataclass(eq=False)
class _Rows:
    """Edited rows of the pattern, on the prompts and queries of one run."""

    edit: EditPattern
    places: Places

    def __post_init__(self) -> None:
        # Not inside the tap: this may run the model, which must not happen in the middle of its own run.
        visible = self.edit.visible if self.edit.how in _SEEING else None
        self._visible = None if visible is None else visible(self.places.tokens.shape[1])

    def edited(self, index: int, layer: int, old: Float[Tensor, "*lead prompt query key"]) -> Float[Tensor, "*lead prompt query key"]:
        """One head's new rows for every query; 16-bit weights are edited in float32."""
        wide = old.to(torch.promote_types(old.dtype, torch.float32))
        if self.edit.how == "replace":
            return self._replaced(index, wide)
        if self.edit.how == "block":
            return self._blocked(wide)
        if self.edit.how == "scale":
            return self._scaled(index, wide)
        seen = self._seen(layer, wide)
        if self.edit.how == "uniform":
            return seen.to(wide) / seen.sum(-1, keepdim=True).clamp(min=1)
        return self._moved(wide, seen)

    def _blocked(self, old: Tensor) -> Tensor:
        blocked = self._keys("keys", old)
        unblocked = old.masked_fill(blocked, 0.0)
        if self.edit.rest == "drop":
            return unblocked
        lost, left = (old - unblocked).sum(-1, keepdim=True), unblocked.sum(-1, keepdim=True)
        return torch.where((lost > 0) & (left > 0), unblocked * (old.sum(-1, keepdim=True) / torch.where(left > 0, left, 1.0)), unblocked)

    def _scaled(self, index: int, old: Tensor) -> Tensor:
        factor: Tensor = self.edit.factor  # type: ignore[assignment]
        own_factor = (factor[index] if factor.ndim else factor).to(old)
        keys, total = self._keys("keys", old), old.sum(-1, keepdim=True)
        scaled = torch.where(keys, old * own_factor, old)
        if self.edit.rest == "drop":
            return scaled
        if self.edit.rest == "others":
            # Removed weight is a difference of the scaled keys alone: with a factor of 1 it is exactly 0, and every weight stays.
            others = old.masked_fill(keys, 0.0).sum(-1, keepdim=True)
            removed = ((1 - own_factor) * old.masked_fill(~keys, 0.0)).sum(-1, keepdim=True)
            grown = torch.where(keys, scaled, old * (1 + removed / torch.where(others > 0, others, 1.0)))
            return torch.where(others > 0, grown, old)
        left = scaled.sum(-1, keepdim=True)
        return torch.where(left > 0, scaled * (total / torch.where(left > 0, left, 1.0)), scaled)

    def _moved(self, old: Tensor, seen: Bool[Tensor, "prompt query key"]) -> Tensor:
        source, target = self._keys("keys", old) & seen, self._keys("to", old) & seen
        count = target.sum(-1, keepdim=True)
        mass = (old * source).sum(-1, keepdim=True)
        moved = old.masked_fill(source, 0.0) + target.to(old) * (mass / count.clamp(min=1))
        return torch.where((count > 0) & (mass > 0), moved, old)

    def _replaced(self, index: int, old: Tensor) -> Tensor:
        weights = self.edit.weights
        own_weights = weights[index] if weights.ndim == 3 else weights  # type: ignore[index, union-attr]  # noqa: PLR2004
        at = self.places.positions
        chosen, keys = Positions.of(self.edit.positions).chosen(self.places), old.shape[-1]
        real = at <= self.places.end.to(at.device)[:, None]
        real = real if chosen is None else real & chosen
        sizes = own_weights.shape  # type: ignore[union-attr]
        short = (at >= min(sizes)) & real
        if bool(short.any()):
            what = f"Weights of shape {tuple(sizes)} do not cover prompts of {int(self.places.end.max()) + 1} tokens."
            raise BadParameterError(what, "Give a weight for every key of the edited rows, or choose fewer positions.")
        wide = torch.zeros(*sizes[:-1], max(keys, sizes[-1]), dtype=old.dtype, device=old.device)
        wide[..., : sizes[-1]] = own_weights.to(wide)  # type: ignore[union-attr]
        rows = wide[..., :keys] if wide.ndim == 1 else wide[at.clamp(max=sizes[0] - 1).to(old.device), :keys]
        rows = rows.expand(*at.shape, keys) if wide.ndim == 1 else rows
        late = (torch.arange(keys, device=at.device) > at[..., None]).to(old.device)
        if bool(((rows != 0) & late & real[..., None].to(old.device)).any()):
            what = "Weights were given to keys that come after their query."
            raise BadParameterError(what, "Give 0 there: attention is causal. A single row must fit every query that is edited.")
        return rows.masked_fill(late, 0.0).expand(old.shape)

    def _seen(self, layer: int, old: Tensor) -> Bool[Tensor, "prompt query key"]:
        if self._visible is None:
            return old > 0
        visible = self._visible[layer]
        return visible[self.places.positions.to(visible.device), : old.shape[-1]].to(old.device)

    def _keys(self, which: Literal["keys", "to"], old: Tensor) -> Bool[Tensor, "prompt 1 key"]:
        """Mask of the keys in each prompt."""
        everywhere = self.places.window(0, old.shape[-1])
        chosen = Positions(self.edit.names(which)).chosen(everywhere)
        every = torch.ones(1, old.shape[-1], dtype=torch.bool)
        return (every if chosen is None else chosen).to(old.device)[:, None]
