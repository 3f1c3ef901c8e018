"""Run edit sets on one base run, recomputing only the layers and positions that they can change.

An edit set changes nothing below its first layer and, in a causal model, nothing before its first position. Its rows therefore start at
that layer from the base run's residual stream, hold only the positions from the first changed one on, and attend to the base run's
keys and values before it. Edit sets that start at the same position go through the layers together, each joining at its own first layer,
so that every weight is used once for all of them in large matrix products. The last layer is computed only at the answer position.
Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.core.in_step import ByLayer, drained, in_step
from circuitlab.model.engine.base_run import BaseRun, CommonPrefix, base_run, base_run_by_layer
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
"""Most positions of edited runs in memory at once (140 MB for a width of 576 in float32)."""


@dataclass(frozen=True, eq=False)
class Engine:
    """Runs edit sets on a functional decoder.

    Parameters
    ----------
    decoder : Decoder
        The model.
    difference : Difference, optional
        Multiply only the difference from the base run, in bfloat16. Without it, arithmetic is exact in the model's dtype.
    tokens_per_block : int
        Positions that go through a layer together: enough for fast matrix products, few enough for the CPU cache.
    most_positions : int, optional
        Most positions of edited runs in memory at once, of a single edited run at least. Results may differ by rounding.
    """

    decoder: Decoder
    difference: Difference | None = None
    tokens_per_block: int = field(default=1280)
    most_positions: int | None = None

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
        """Run prompts once, with no edits except those of an edited model; keep what `sweep` needs and the values of ``sites``.

        No edit set may start before position ``first``; with a later ``first`` less is kept. ``shared`` is an earlier run of prompts with
        the same prefix: only the rest is run. ``marks`` name positions for the edits of an edited model.
        """
        linears_from = None if self.difference is None else first
        return base_run(self.decoder, Places(tokens, at, marks or {}), sites, linears_from=linears_from, shared=shared)

    def base_run_by_layer(
        self, places: Places, sites: Collection[Site] = (), *, first: int = 0, shared: CommonPrefix | None = None
    ) -> ByLayer[BaseRun]:
        """`base_run` as work that goes through the layers, in step with other work."""
        return base_run_by_layer(self.decoder, places, sites, linears_from=None if self.difference is None else first, shared=shared)

    @torch.no_grad()
    def sweep(self, base: BaseRun, edit_sets: Sequence[EditSet]) -> Float[Tensor, "edit_set prompt d_model"]:
        """The residual stream leaving the last layer at the answer position of each prompt, for each edit set.

        Parameters
        ----------
        base : BaseRun
            From `base_run`. Edit sets whose values equal those that it holds are not run: their effect is exactly zero.
        edit_sets : sequence of EditSet
            In any order; those that start at the same position share passes.
        """
        out, passes = self._passes(base, edit_sets)
        for _, layer_pass in passes:  # one after another, because only one of them may be in memory
            drained(layer_pass)
        return out

    @torch.no_grad()
    def sweep_by_layer(self, base: BaseRun, edit_sets: Sequence[EditSet]) -> ByLayer[Float[Tensor, "edit_set prompt d_model"]]:
        """`sweep` as work that goes through the layers: once, if `most_positions` lets all edited runs be in memory together."""
        out, passes = self._passes(base, edit_sets)
        wave: list[ByLayer[None]] = []
        positions = 0
        for size, layer_pass in passes:
            if wave and self.most_positions is not None and positions + size > self.most_positions:
                yield from in_step(wave)
                wave, positions = [], 0
            wave.append(layer_pass)
            positions += size
        yield from in_step(wave)
        return out

    def _passes(
        self, base: BaseRun, edit_sets: Sequence[EditSet]
    ) -> tuple[Float[Tensor, "edit_set prompt d_model"], Iterator[tuple[int, ByLayer[None]]]]:
        """Where the results of a sweep will stand, and the passes that fill it with their positions; memory is taken when one begins."""
        out = base.final.expand(len(edit_sets), -1, -1).clone()
        starts: dict[int, list[tuple[int, EditSet]]] = {}
        stop = int(base.at.max()) + 1
        for index, edit_set in enumerate(edit_sets):
            _check(edit_set, base, stop)
            if edit_set.start < stop and not changes_nothing(edit_set, base):
                starts.setdefault(edit_set.start, []).append((index, moved_up(edit_set, base)))
        layer_pass = LayerPass(self.decoder, base, stop, self.difference, self.tokens_per_block)
        return out, ((size, _filled(out, layer_pass, groups)) for size, groups in self._together(base, starts, stop))

    def _together(
        self, base: BaseRun, starts: dict[int, list[tuple[int, EditSet]]], stop: int
    ) -> Iterator[tuple[int, list[tuple[int, list[tuple[int, EditSet]]]]]]:
        """Groups of edit sets with the same start, (start, [(index, edit set), ...]), as many as fit in memory, with their positions."""
        groups: list[tuple[int, list[tuple[int, EditSet]]]] = []
        positions = 0
        most = _MOST_TOKENS if self.most_positions is None else min(_MOST_TOKENS, self.most_positions)
        for start, entries in starts.items():
            each = len(base.at) * (stop - start)
            for ordered in self._parts(sorted(entries, key=lambda entry: entry[1].layer), each):
                size = len(ordered) * each
                if groups and positions + size > most:
                    yield positions, groups
                    groups, positions = [], 0
                groups.append((start, ordered))
                positions += size
        if groups:
            yield positions, groups

    def _parts(self, ordered: list[tuple[int, EditSet]], each: int) -> Iterator[list[tuple[int, EditSet]]]:
        """Edit sets of one start in parts of at most `most_positions`, where ``each`` edited run has this many; at least one in a part."""
        count = len(ordered) if self.most_positions is None else max(1, self.most_positions // each)
        return (ordered[first : first + count] for first in range(0, len(ordered), count))


def _filled(out: Tensor, layer_pass: LayerPass, groups: list[tuple[int, list[tuple[int, EditSet]]]]) -> ByLayer[None]:
    """Run some groups, and put their residual streams into the result of the sweep."""
    base = layer_pass.base
    begun = [StartGroup.of(start, ordered, base, layer_pass.stop) for start, ordered in groups]
    for group, resid in zip(begun, (yield from layer_pass.by_layer(begun)), strict=True):
        out[group.indices] = torch.where((base.at >= group.start).to(resid.device)[None, :, None], resid, out[group.indices])


def _check(edit_set: EditSet, base: BaseRun, stop: int) -> None:
    if not edit_set.edits:
        what = "An edit set without edits changes nothing."
        raise BadParameterError(what, "Add at least one edit.")
    layers = len(base.keys)
    for edit in edit_set.edits:
        if not 0 <= edit.layer < layers:
            what = f"Layer {edit.layer} does not exist; this model has layers 0 to {layers - 1}."
            raise BadParameterError(what, "Count layers from 0.")
        check_inside(edit, edit_set.start, stop)
