"""Edit sets on one base run, recomputing only the layers and positions that they can change.

An edit set changes nothing below its first layer and, in a causal model, nothing before its first position. So its rows start at
that layer from the base run's residual stream, hold only the positions from the first changed one on, and attend to the base run's
keys and values before it. All edit sets that start at one position go up together, each joining at its own layer: every weight is
used once for all of them, in large matrix products. The last layer is finished only at the answer position. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.model.engine.base_run import BaseRun, CommonPrefix, base_run
from circuitlab.model.engine.layer_pass import LayerPass, StartGroup
from circuitlab.model.engine.shortcuts import changes_nothing, moved_up
from circuitlab.model.engine.window import check_inside
from circuitlab.model.places import Places
from circuitlab.model.sites import EditSet, Site

if TYPE_CHECKING:
    from collections.abc import Collection

    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.decoder import Decoder
    from circuitlab.model.engine.arithmetic import Difference

__all__ = ["Engine"]

_MOST_TOKENS = 60_000
"""Positions of all edited runs that are held at once (140 MB for a width of 576 in float32)."""


@dataclass(frozen=True, eq=False)
class Engine:
    """Runs edit sets on a functional decoder.

    Parameters
    ----------
    decoder : Decoder
    difference : Difference, optional
        Multiply the difference from the base run in bfloat16. Exact arithmetic in the model's dtype otherwise.
    tokens_per_block : int
        Positions that go through a layer together: enough for full speed of the matrix products, few enough for the cache.
    """

    decoder: Decoder
    difference: Difference | None = None
    tokens_per_block: int = field(default=1280)

    def base_run(
        self,
        tokens: Int[Tensor, "prompt pos"],
        at: Int[Tensor, " prompt"],
        sites: Collection[Site] = (),
        *,
        first: int = 0,
        shared: CommonPrefix | None = None,
        marks: Mapping[str, Int[Tensor, " prompt"]] | None = None,
    ) -> BaseRun:
        """Run prompts once, with no edits but those of an edited model; keep what `sweep` needs and the values of ``sites``.

        ``first`` promises that no edit set will start before that position: less is kept. ``shared`` names prompts that were
        run before and begin alike: only the rest is run. ``marks`` name positions for the edits of an edited model.
        """
        linears_from = None if self.difference is None else first
        return base_run(self.decoder, Places(tokens, at, marks or {}), sites, linears_from=linears_from, shared=shared)

    @torch.no_grad()
    def sweep(self, base: BaseRun, edit_sets: Sequence[EditSet]) -> Float[Tensor, "edit_set prompt d_model"]:
        """The residual stream leaving the last layer at the answer position of each prompt, for each edit set.

        Parameters
        ----------
        base : BaseRun
            From `base_run`. Edit sets whose values equal those it kept are not run: their effect is exactly zero.
        edit_sets : sequence of EditSet
            Any order; those that start at the same position share their passes.
        """
        out = base.final.expand(len(edit_sets), -1, -1).clone()
        starts: dict[int, list[tuple[int, EditSet]]] = {}
        stop = int(base.at.max()) + 1
        for index, one in enumerate(edit_sets):
            _check(one, base, stop)
            if one.start < stop and not changes_nothing(one, base):
                starts.setdefault(one.start, []).append((index, moved_up(one, base)))
        for groups in self._together(base, starts, stop):
            layer_pass = LayerPass(self.decoder, base, stop, self.difference, self.tokens_per_block)
            for group, found in zip(groups, layer_pass(groups), strict=True):
                out[group.indices] = torch.where((base.at >= group.start)[None, :, None], found, out[group.indices])
        return out

    def _together(self, base: BaseRun, starts: dict[int, list[tuple[int, EditSet]]], stop: int) -> Iterator[list[StartGroup]]:
        """Groups of one start each, as many at once as their rows fit the budget of memory."""
        groups: list[StartGroup] = []
        tokens = 0
        for start, found in starts.items():
            ordered = sorted(found, key=lambda entry: entry[1].layer)
            mine = len(ordered) * len(base.at) * (stop - start)
            if groups and tokens + mine > _MOST_TOKENS:
                yield groups
                groups, tokens = [], 0
            groups.append(StartGroup.of(start, ordered, base, stop))
            tokens += mine
        if groups:
            yield groups


def _check(one: EditSet, base: BaseRun, stop: int) -> None:
    if not one.edits:
        what = "An edit set without edits changes nothing."
        raise BadParameterError(what, "Give it at least one edit.")
    layers = len(base.keys)
    for edit in one.edits:
        if not 0 <= edit.layer < layers:
            what = f"Layer {edit.layer} does not exist; this model has layers 0 to {layers - 1}."
            raise BadParameterError(what, "Count layers from 0.")
        check_inside(edit, one.start, stop)
