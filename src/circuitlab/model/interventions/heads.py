"""KeepHeads: a budget of heads for each token, by what they write, or by scores from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head
from circuitlab.model.interventions.base import Intervention
from circuitlab.model.interventions.held import hash_tensor, read_tensor
from circuitlab.model.interventions.positions import Positions, PositionSpec
from circuitlab.model.interventions.spots import Spot
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from circuitlab.model.places import Places, Tap
    from circuitlab.model.runner import ReadableModel

__all__ = ["KeepHeads"]

_SCORE_AXES = 3


@dataclass(frozen=True, eq=False)
class KeepHeads(Intervention):
    """Keep some heads of a layer for each token, and set the values of the others to 0.

    Parameters
    ----------
    layers : int or sequence of int
        Layers whose heads get a budget.
    keep : int
        Heads of each layer that are kept for each token; all of them change nothing, bit for bit.
    by : "write" or Tensor of shape (layer, pos, head)
        Which heads are kept. ``"write"``: those whose contribution to the stream is longest (the scale of a norm behind attention is
        common to all heads, and left out). A tensor holds scores from outside, as a router would give them, by layer in the order of
        ``layers`` and by position from 0; an axis of one position stands for all. Of equal scores the earlier head is kept.
    positions : str, int, or several
        Tokens that get a budget; see `Positions`. Scores by position do not edit generated tokens beyond those that they hold.
    written : tuple of Tensor, optional
        For ``"write"``, what each head's values are multiplied with before they are added to the stream; set by `resolved`.

    Notes
    -----
    A value of 0 at z takes out all that the head writes at this token, and nothing else: keys and values that other tokens read stay.

    References
    ----------
    Jin et al. (2024), MoH: Multi-Head Attention as Mixture-of-Head Attention, arXiv:2410.11842.

    Examples
    --------
    >>> from circuitlab.model.toy import build_planted
    >>> build_planted("copy-gqa").model.edited(KeepHeads([0, 1], 3))
    HookedModel(copy-gqa: llama, 2 layers x 4 heads, edited: keep 3 heads a token by write in layers 0,1)
    """

    kind: ClassVar[str] = "keep_heads"
    layers: int | Sequence[int]
    keep: int
    by: Literal["write"] | Tensor = "write"
    positions: PositionSpec = field(default="all", kw_only=True)
    written: tuple[Tensor, ...] | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        layers = (self.layers,) if isinstance(self.layers, int) else tuple(map(int, self.layers))
        object.__setattr__(self, "layers", layers)
        object.__setattr__(self, "positions", Positions.of(self.positions).names)
        if not layers or len(set(layers)) < len(layers) or self.keep < 0:
            what = f"keep={self.keep} heads in layers {list(layers)} cannot be kept."
            raise BadParameterError(what, "Name each layer once, and keep 0 heads or more.")
        if isinstance(self.by, str):
            if self.by != "write":
                raise UnknownNameError("ranking of heads", self.by, ["write"])
            return
        scores = read_tensor(self.by, "The scores").detach()
        if scores.ndim != _SCORE_AXES or len(scores) != len(layers) or not scores.shape[1]:
            what = f"Scores of shape {tuple(scores.shape)} were given for {len(layers)} layers."
            raise BadParameterError(what, "Give (layer, pos, head), with one position that stands for all or one for each.")
        object.__setattr__(self, "by", scores)

    @property
    def targets(self) -> frozenset[tuple[Site, int]]:
        """Sites and layers whose values it changes."""
        return frozenset((Site.Z, layer) for layer in self.layers)  # type: ignore[union-attr]

    def check(self, model: ReadableModel) -> None:
        """Raise unless the model has the layers, their heads' values, and as many heads as are scored and kept."""
        heads = model.spec.n_heads
        for layer in self.layers:  # type: ignore[union-attr]
            Spot(Head(layer, 0), Site.Z, layer, 0).check(model)
        scored = heads if isinstance(self.by, str) else self.by.shape[-1]
        if self.keep > heads or scored != heads:
            what = f"{self.keep} of {scored} scored heads were to be kept; {model.spec.name} has {heads} heads in a layer."
            raise BadParameterError(what, f"Keep 0 to {heads} heads, and score {heads}.")

    def resolved(self, model: ReadableModel) -> KeepHeads:
        """The same edit with the output projections that ``"write"`` needs."""
        self.check(model)
        if not isinstance(self.by, str):
            return self
        # Every `Model` has weights; the protocol of models that are only read does not say so.
        weights: Any = model.weights  # type: ignore[attr-defined]
        return replace(self, written=tuple(_written(weights, layer) for layer in self.layers))  # type: ignore[union-attr]

    def tap(self, places: Places) -> Tap:
        """The tap that applies it to the prompts and positions of a run."""
        if isinstance(self.by, str) and self.written is None:
            what = "KeepHeads does not know what heads write."
            raise BadParameterError(what, "Bind it to a model: model.edited(keep_heads), or keep_heads.resolved(model).")
        chosen = self._chosen(places)
        nowhere = chosen is not None and not bool(chosen.any())
        number = {layer: i for i, layer in enumerate(self.layers)}  # type: ignore[arg-type]

        def tap(site: Site, layer: int, value: Tensor) -> Tensor:
            if site is not Site.Z or layer not in number or nowhere or self.keep >= value.shape[-2]:
                return value
            dropped = ~_largest(self._scores(number[layer], value, places), self.keep)
            dropped = dropped if chosen is None else dropped & chosen.to(value.device)[..., None]
            return value.masked_fill(dropped[..., None], 0.0)

        return tap

    def _chosen(self, places: Places) -> Bool[Tensor, "prompt pos"] | None:
        chosen = Positions.of(self.positions).chosen(places)
        if isinstance(self.by, str) or self.by.shape[1] == 1:
            return chosen
        at, length = places.positions, self.by.shape[1]
        missing = (at >= length) & (at <= places.end.to(at.device)[:, None])
        if bool((missing if chosen is None else missing & chosen).any()):
            what = f"Scores hold {length} positions, but a prompt of {int(places.end.max()) + 1} tokens would be edited after them."
            raise BadParameterError(what, "Name the positions to edit, or give scores for every position.")
        return at < length if chosen is None else chosen & (at < length)

    def _scores(self, number: int, z: Tensor, places: Places) -> Float[Tensor, "*lead prompt pos head"]:
        if not isinstance(self.by, str):
            scores = self.by[number].to(z.device)
            return scores[places.positions.to(z.device).clamp(max=len(scores) - 1)].expand(z.shape[:-1])
        gram = self.written[number].to(z.device)  # type: ignore[index]
        wide = z.detach().to(gram.dtype)
        return (torch.einsum("...hd,hde->...he", wide, gram) * wide).sum(-1)

    def identity(self) -> dict[str, Any]:
        """Kind, layers, tokens and settings."""
        by = self.by if isinstance(self.by, str) else hash_tensor(self.by)
        names = list(Positions.of(self.positions).names)
        return {"kind": self.kind, "layers": list(self.layers), "positions": names, "keep": self.keep, "by": by}  # type: ignore[arg-type]

    def describe(self) -> str:
        """A short description."""
        by = self.by if isinstance(self.by, str) else "given scores"
        layers = ",".join(map(str, self.layers))  # type: ignore[arg-type]
        return f"keep {self.keep} heads a token by {by} in layers {layers}{Positions.of(self.positions).describe()}"


def _written(weights: Any, layer: int) -> Float[Tensor, "head d_head d_head"]:
    """The Gram matrix of each head's way to the stream: ``z gram z`` is the squared norm of what it writes."""
    out, post = weights.output(layer).detach().float(), weights.post_attention_norm(layer)
    if post is not None:
        out = (out - out.mean(-1, keepdim=True) if post.kind == "layer" else out) * post.gain.to(out)
    return torch.einsum("hdm,hem->hde", out, out)


def _largest(scores: Float[Tensor, "*rows head"], keep: int) -> Bool[Tensor, "*rows head"]:
    """True for the ``keep`` largest scores of each row; of equal ones for the earlier."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order[..., :keep], value=True)
