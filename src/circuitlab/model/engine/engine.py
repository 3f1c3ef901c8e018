"""Interventions on one base run, recomputing only the layers and positions that they can change.

An intervention changes nothing below its first layer and, in a causal model, nothing before its first position. So its rows start at
that layer from the base run's residual stream, hold only the positions from the first changed one on, and attend to the base run's
keys and values before it. All interventions that start at one position go up together, each joining at its own layer: every weight is
used once for all of them, in large matrix products. The last layer is finished only at the answer position. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from circuitlab.errors import BadParameterError
from circuitlab.model.engine.arithmetic import Difference, Multiply, exact
from circuitlab.model.engine.base_run import BaseRun, base_run
from circuitlab.model.engine.layer import Place, run_layer
from circuitlab.model.engine.window import Write, check_inside
from circuitlab.model.protocol import Intervention, Site

if TYPE_CHECKING:
    from collections.abc import Collection

    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.decoder import Decoder
    from circuitlab.model.protocol import Edit

__all__ = ["Engine"]


@dataclass(frozen=True, eq=False)
class Engine:
    """Runs interventions on a functional decoder.

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
    ) -> BaseRun:
        """Run prompts once, unedited; keep what `sweep` needs and the values of ``sites``.

        ``first`` promises that no intervention will start before that position: less is kept.
        """
        return base_run(self.decoder, tokens, at, sites, linears_from=None if self.difference is None else first)

    @torch.no_grad()
    def sweep(self, base: BaseRun, interventions: Sequence[Intervention]) -> Float[Tensor, "intervention prompt d_model"]:
        """The residual stream leaving the last layer at the answer position of each prompt, for each intervention.

        Parameters
        ----------
        base : BaseRun
            From `base_run`. Interventions whose values equal those it kept are not run: their effect is exactly zero.
        interventions : sequence of Intervention
            Any order; those that start at the same position share their passes.
        """
        out = base.final.expand(len(interventions), -1, -1).clone()
        starts: dict[int, list[int]] = {}
        stop = int(base.at.max()) + 1
        for index, one in enumerate(interventions):
            _check(one, base, stop)
            if one.start < stop and not _changes_nothing(one, base):
                starts.setdefault(one.start, []).append(index)
        for start, indices in starts.items():
            ordered = sorted(indices, key=lambda i: interventions[i].layer)
            found = self._climb(base, [interventions[i] for i in ordered], start, stop)
            out[ordered] = torch.where((base.at >= start)[None, :, None], found, out[ordered])
        return out

    def _climb(self, base: BaseRun, ordered: list[Intervention], start: int, stop: int) -> Tensor:
        """One growing pass: edited runs join at their first layer and go up together, (intervention, prompt, d_model)."""
        entering = [x[:, start:stop] for x in base.entering]
        rows = entering[0].new_empty(len(ordered), *entering[0].shape)
        last = len(self.decoder.blocks) - 1
        final = rows[:, :, 0]
        joined = 0
        for layer in range(ordered[0].layer, last + 1):
            new = sum(one.layer == layer for one in ordered)
            rows[joined : joined + new] = entering[layer]
            joined += new
            only = base.at.clamp(min=start) if layer == last else None
            for group in self._blocks_of(joined, rows.shape[1] * rows.shape[2]):
                writes = [Write(i, edit) for i, one in enumerate(ordered[group]) for edit in one.edits if edit.layer == layer]
                out = self._layer(base, layer, rows[group], (start, stop), only, writes)
                if only is None:
                    rows[group] = out
                else:
                    final[group] = out[:, :, 0]
        return final

    def _layer(
        self,
        base: BaseRun,
        layer: int,
        x: Tensor,
        window: tuple[int, int],
        only: Tensor | None,
        writes: list[Write],
    ) -> Tensor:
        start, stop = window
        where = self.decoder.measure(stop)[layer]
        place = Place(start, stop, where, base.keys[layer][:, :start], base.values[layer][:, :start], only)
        return run_layer(self.decoder.blocks[layer], x, place, self._multiply(base, layer, place), writes)[0]

    def _multiply(self, base: BaseRun, layer: int, place: Place) -> Multiply:
        if self.difference is None:
            return exact
        return self.difference.of(base.linears[layer], place, base.linears_from)

    def _blocks_of(self, count: int, tokens_each: int) -> Iterator[slice]:
        """Even shares of at most ``tokens_per_block``: a small rest would run at a fraction of the speed."""
        shares = -(-count // max(1, self.tokens_per_block // tokens_each))
        for share in range(shares):
            yield slice(count * share // shares, count * (share + 1) // shares)


def _check(one: Intervention, base: BaseRun, stop: int) -> None:
    if not one.edits:
        what = "An intervention without edits changes nothing."
        raise BadParameterError(what, "Give it at least one edit.")
    layers = len(base.keys)
    for edit in one.edits:
        if not 0 <= edit.layer < layers:
            what = f"Layer {edit.layer} does not exist; this model has layers 0 to {layers - 1}."
            raise BadParameterError(what, "Count layers from 0.")
        check_inside(edit, one.start, stop)


def _changes_nothing(one: Intervention, base: BaseRun) -> bool:
    """Whether every edit writes what the base run has there (as far as the base run kept it)."""
    return all(edit.site in base.sites and torch.equal(edit.value, _held(edit, base)) for edit in one.edits)


def _held(edit: Edit, base: BaseRun) -> Tensor:
    value = base.sites[edit.site][edit.layer]
    if edit.head is not None:
        value = value[:, edit.head] if edit.site is Site.PATTERN else value[:, :, edit.head]
    if edit.positions is None:
        return value
    rows = torch.arange(len(value))
    return value[rows, :, edit.positions] if edit.site is Site.PATTERN and edit.head is None else value[rows, edit.positions]
