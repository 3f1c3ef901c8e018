"""The nodes that a gradient method scores, their values in a trace, and the positions over which they are summed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from circuitlab.core.errors import AlignmentError, BadParameterError, ModelError, UnknownNameError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Trace
    from circuitlab.model.protocol import Model

__all__ = ["NodeSelection", "Point", "per_position", "value_at"]

_FIELDS = {
    "attns": "attn_out",
    "mlps": "mlp_out",
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
    "embed": "resid_pre",
}
_EACH = "each"


class Point(NamedTuple):
    """All nodes of one part in one layer, which share a tensor of the trace.

    ``part`` is the name in the scores (``"kv_heads"`` for keys and values), ``field`` the name of the tensor in `LayerTrace`.
    """

    part: str
    field: str
    layer: int


@dataclass(frozen=True)
class NodeSelection:
    """The nodes and positions to score.

    Parameters
    ----------
    parts : tuple of str
        Among heads, attns, mlps, resid_pre, resid_mid, resid_post and embed.
    site : str
        The value of a head: z, q, k, v or pattern.
    positions : tuple of str
        ``("all",)``, ``("each",)``, or marks of the task.
    """

    parts: tuple[str, ...]
    site: str
    positions: tuple[str, ...]

    def check(self, parts: Collection[str], sites: Collection[str]) -> None:
        """Raise unless every name is among those that a method knows, and the positions can be combined."""
        if self.site not in sites:
            raise UnknownNameError("site", self.site, sites)
        for part in self.parts:
            if part not in parts:
                raise UnknownNameError("part", part, parts)
        alone = {"all", _EACH} & set(self.positions)
        if not self.parts or not self.positions or (alone and len(self.positions) > 1):
            what = f"parts={self.parts}, positions={self.positions} cannot be scored."
            raise BadParameterError(what, "Name at least one part, and either ('all',), ('each',) or marks of the task.")

    def require(self, model: Model) -> None:
        """Raise `ModelError` if the model lacks a part."""
        has = {site.value for site in model.sites}
        if missing := [part for part in self.parts if part != "heads" and _FIELDS[part] not in has]:
            what = f"{model.spec.name} ({model.spec.family}) has no {', '.join(missing)} to score."
            raise ModelError(what, f"Remove it from parts; this model has {sorted(has)}.")

    def points(self, n_layers: int) -> list[Point]:
        """Every point, part by part, in forward order."""
        heads = "kv_heads" if self.site in {"k", "v"} else "heads"
        points = []
        for part in self.parts:
            name, field = (heads, self.site) if part == "heads" else (part, _FIELDS[part])
            points += [Point(name, field, layer) for layer in range(1 if part == "embed" else n_layers)]
        return points

    def marks(self, batch: ContrastBatch) -> tuple[str, ...] | None:
        """Names along the mark axis, or None if positions are summed; unequal lengths raise for ``("each",)``."""
        if self.positions == ("all",):
            return None
        if self.positions == (_EACH,):
            lengths = sorted(set((batch.end + 1).tolist()))
            if len(lengths) > 1:
                what = f"Prompts of {lengths[0]} to {lengths[-1]} tokens have no positions in common."
                raise AlignmentError(what, "Name marks of the task, or choose one template with a variant.")
            return tuple(map(str, range(lengths[0])))
        for mark in self.positions:
            batch.mark(mark)
        return self.positions

    def placed(self, values: Float[Tensor, "pair pos *head"], batch: ContrastBatch) -> Float[Tensor, "pair ..."]:
        """Values summed over positions, or at each mark, (pair, mark, ...)."""
        import torch  # noqa: PLC0415 - methods are named by light commands that must not import torch

        if self.positions == ("all",):
            return values.sum(1)
        if self.positions == (_EACH,):
            return values
        positions: Int[Tensor, "pair mark"] = torch.stack([batch.mark(mark) for mark in self.positions], dim=1).to(values.device)
        return values[torch.arange(len(values), device=values.device)[:, None], positions]

    def on_window(self, values: Float[Tensor, "pair window *head"], start: int, batch: ContrastBatch) -> Float[Tensor, "pair ..."]:
        """`placed` for values that begin at position ``start``, and are zero before it."""
        import torch  # noqa: PLC0415

        return self.placed(torch.cat([values.new_zeros(len(values), start, *values.shape[2:]), values], dim=1), batch)

    def stacked(self, effects: Mapping[Point, Float[Tensor, "pair ..."]]) -> dict[str, np.ndarray]:
        """Join the layers of every part, (pair[, mark], layer[, head]), as float64."""
        axis = 1 if self.positions == ("all",) else 2
        layers: dict[str, list[np.ndarray]] = {}
        for point, effect in effects.items():
            layers.setdefault(point.part, []).append(effect.detach().double().cpu().numpy())
        return {part: values[0] if part == "embed" else np.stack(values, axis=axis) for part, values in layers.items()}


def value_at(trace: Trace, point: Point) -> Tensor:
    """The tensor of the trace with a point's nodes."""
    value: Tensor = getattr(trace.layers[point.layer], point.field)
    return value


def per_position(point: Point, difference: Tensor, gradient: Tensor) -> Float[Tensor, "pair pos *head"]:
    """Inner product of a difference and a gradient at every position; a pattern's position is that of the query."""
    product = (difference * gradient).sum(-1)
    return product.transpose(1, 2) if point.field == "pattern" else product
