"""Edits of one run as a tap. Each edit is checked before the run, and must have fired by its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import BadParameterError, EditDidNotFireError, ModelError
from circuitlab.model.sites import Edit, Site

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.core.provenance import ModelSpec
    from circuitlab.model.anatomy import ModelParts

__all__ = ["EditTap", "require_site"]


def require_site(spec: ModelSpec, parts: ModelParts, site: Site, layer: int) -> None:
    """Raise unless the model has the site and the layer.

    Raises
    ------
    ModelError
        If the model does not have the site; the message says why.
    BadParameterError
        If there is no such layer.
    """
    if site in parts.lacks:
        what = f"{spec.name} ({spec.family}) has no site {site.value!r}: {parts.lacks[site]}."
        raise ModelError(what, f"It has {sorted(other.value for other in parts.sites)}.")
    if not 0 <= layer < spec.n_layers:
        what = f"Layer {layer} does not exist; {spec.name} has layers 0 to {spec.n_layers - 1}."
        raise BadParameterError(what, "Count layers from 0.")


@dataclass(eq=False)
class EditTap:
    """A tap that applies edits; where two edits overlap, the later one wins.

    Parameters
    ----------
    spec : ModelSpec
        The model's identity and shape.
    parts : ModelParts
        The model's parts.
    edits : sequence of Edit
        The edits of the run.
    fired : set of int
        Indices of the edits that were applied; filled during the run.

    Raises
    ------
    ModelError, BadParameterError
        If the model has no such site, layer or head.
    """

    spec: ModelSpec
    parts: ModelParts
    edits: Sequence[Edit]
    fired: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._at: dict[tuple[Site, int], list[int]] = {}
        for index, edit in enumerate(self.edits):
            require_site(self.spec, self.parts, edit.site, edit.layer)
            self._check_head(edit)
            self._at.setdefault((edit.site, edit.layer), []).append(index)

    def _check_head(self, edit: Edit) -> None:
        heads = None
        if edit.site.per_head:
            heads = self.spec.n_kv_heads if edit.site in {Site.K, Site.V} else self.spec.n_heads
        if edit.head is not None and (heads is None or not 0 <= edit.head < heads):
            what = f"Head {edit.head} does not exist at {edit.site.value!r} of {self.spec.name}, which has {heads or 'no'} heads there."
            raise BadParameterError(what, "Count heads from 0; keys and values have one head per key/value group.")

    @property
    def sites(self) -> list[tuple[Site, int]]:
        """Sites and layers that have an edit."""
        return list(self._at)

    def __call__(self, site: Site, layer: int, value: Tensor) -> Tensor:
        """A copy of the value with its edits; the value itself if it has none."""
        indices = self._at.get((site, layer), ())
        if not indices:
            return value
        out = value.clone()
        for index in indices:
            _write_one(out, self.edits[index])
            self.fired.add(index)
        return out

    def check_fired(self) -> None:
        """Raise `EditDidNotFireError` unless every edit was applied."""
        missed = [edit for index, edit in enumerate(self.edits) if index not in self.fired]
        if missed:
            shown = ", ".join(sorted({f"{edit.site.value} of layer {edit.layer}" for edit in missed}))
            what = f"{len(missed)} of {len(self.edits)} edits never fired ({shown}) in {self.spec.name}."
            raise EditDidNotFireError(what, "Run `circuitlab doctor` on this model; its family may not be supported.")


def _write_one(out: Tensor, edit: Edit) -> None:
    """Write one edit into a copy of an activation; a wrong shape raises instead of broadcasting."""
    rows = torch.arange(out.shape[0], device=out.device)[edit.rows or slice(None)]
    where: tuple[Any, ...] = (rows,)
    if edit.site is Site.PATTERN:
        head = slice(None) if edit.head is None else edit.head
        where = (rows, head) if edit.positions is None else (rows, head, _inside(edit, out.shape[2]))
    elif edit.positions is not None:
        where = (rows, _inside(edit, out.shape[1]))
        where = where if edit.head is None else (*where, edit.head)
    elif edit.head is not None:
        where = (rows, slice(None), edit.head)
    expected = out[where].shape
    if edit.value.shape != expected:
        what = f"An edit of {edit.site.value!r} at layer {edit.layer} has shape {tuple(edit.value.shape)}; {tuple(expected)} is needed."
        raise BadParameterError(what, "Give one value per edited row, position and head.")
    out[where] = edit.value.to(out)


def _inside(edit: Edit, length: int) -> Tensor:
    positions = edit.positions
    if positions is None or bool(((positions < 0) | (positions >= length)).any()):
        shown = [] if positions is None else positions.tolist()
        what = f"Positions {shown} of an edit at {edit.site.value!r} lie outside prompts of {length} tokens."
        raise BadParameterError(what, "Count positions from 0.")
    return positions
