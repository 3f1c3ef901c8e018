"""Where each site lives among a TransformerBridge's hook points, and how an edit is written there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.errors import BadParameterError, EditDidNotFireError, ModelError
from circuitlab.model.protocol import Edit, Site

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.provenance import ModelSpec

__all__ = ["Hook", "SiteMap", "edit_hooks"]

Hook = tuple[str, Callable[[Any, Any], Any]]


@dataclass(frozen=True)
class SiteMap:
    """Hook-point names of one model.

    Names are the bridge's own component hooks and not its aliases: with post-norms, only the norm's output is what is added
    to the residual stream, and the input of the second norm is a copy beside the stream, so writing there would not reach the
    skip connection.
    """

    spec: ModelSpec

    @property
    def sites(self) -> frozenset[Site]:
        """All sites, less RESID_MID where attention and MLP run in parallel."""
        return frozenset(Site) - ({Site.RESID_MID} if self.spec.parallel else set())

    def name(self, site: Site, layer: int) -> str:
        """The hook point to read a site from."""
        post = self.spec.post_norm
        tail = {
            Site.RESID_PRE: "hook_in",
            Site.RESID_MID: "ln2.hook_in",
            Site.RESID_POST: "hook_out",
            Site.ATTN_OUT: "ln1_post.hook_out" if post else "attn.hook_out",
            Site.MLP_OUT: "ln2_post.hook_out" if post else "mlp.hook_out",
            Site.Z: "attn.o.hook_in",
            Site.Q: "attn.q.hook_out",
            Site.K: "attn.k.hook_out",
            Site.V: "attn.v.hook_out",
            Site.PATTERN: "attn.hook_pattern",
        }[site]
        return f"blocks.{layer}.{tail}"

    def check(self, site: Site, layer: int) -> None:
        """Raise unless the model has this site at this layer."""
        if site not in self.sites:
            what = f"{self.spec.name} ({self.spec.family}) has no site {site.value!r}."
            raise ModelError(what, f"It has {sorted(s.value for s in self.sites)}.")
        if not 0 <= layer < self.spec.n_layers:
            what = f"Layer {layer} does not exist; {self.spec.name} has layers 0 to {self.spec.n_layers - 1}."
            raise BadParameterError(what, "Count layers from 0.")

    def n_heads(self, site: Site) -> int | None:
        """Size of the head axis of a site, or None."""
        if not site.per_head:
            return None
        return self.spec.n_kv_heads if site in {Site.K, Site.V} else self.spec.n_heads


def edit_hooks(where: SiteMap, edits: Sequence[Edit]) -> tuple[list[Hook], Callable[[], None]]:
    """Hooks that write a list of edits, and a check to call after the run that every one of them fired."""
    fired: set[int] = set()
    grouped: dict[tuple[Site, int], list[tuple[int, Edit]]] = {}
    for index, edit in enumerate(edits):
        where.check(edit.site, edit.layer)
        _check_head(where, edit)
        grouped.setdefault((edit.site, edit.layer), []).append((index, edit))
    hooks: list[Hook] = []
    for (site, layer), group in grouped.items():
        write = _writer(group, fired)
        hooks += _resid_mid_hooks(where, layer, write) if site is Site.RESID_MID else [(where.name(site, layer), write)]

    def check_fired() -> None:
        if missed := [edits[i] for i in range(len(edits)) if i not in fired]:
            shown = ", ".join(sorted({f"{edit.site.value} of layer {edit.layer}" for edit in missed}))
            what = f"{len(missed)} of {len(edits)} edits never fired ({shown}) in {where.spec.name}."
            raise EditDidNotFireError(what, "Run `circuitlab doctor` on this model; its family may not be supported.")

    return hooks, check_fired


def _check_head(where: SiteMap, edit: Edit) -> None:
    heads = where.n_heads(edit.site)
    if edit.head is not None and (heads is None or not 0 <= edit.head < heads):
        what = f"Head {edit.head} does not exist at {edit.site.value!r} of {where.spec.name}, which has {heads or 'no'} heads there."
        raise BadParameterError(what, "Count heads from 0; keys and values have one head per key/value group.")


def _writer(group: Sequence[tuple[int, Edit]], fired: set[int]) -> Callable[[Any, Any], Any]:
    def write(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 - TransformerLens passes hook by name
        out = activation.clone()
        for index, edit in group:
            _write_one(out, edit)
            fired.add(index)
        return out

    return write


def _write_one(out: Tensor, edit: Edit) -> None:
    """Write one edit into a cloned activation; a mismatching shape raises instead of broadcasting."""
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


def _resid_mid_hooks(where: SiteMap, layer: int, write: Callable[[Any, Any], Any]) -> list[Hook]:
    """Editing the stream between attention and MLP means choosing what attention adds: new middle minus what came in."""
    entering: list[Tensor] = []

    def remember(activation: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        entering[:] = [activation]
        return activation

    def add_the_rest(activation: Tensor, hook: Any) -> Tensor:
        return write(entering[0] + activation, hook) - entering[0]

    return [(where.name(Site.RESID_PRE, layer), remember), (where.name(Site.ATTN_OUT, layer), add_the_rest)]
