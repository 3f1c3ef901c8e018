"""Interventions on one base run, recomputing only the layers and positions that they can change.

An intervention changes nothing below its first layer and, in a causal model, nothing before its first position. So its rows start at
that layer from the base run's residual stream, hold only the positions from the first changed one on, and attend to the base run's
keys and values before it. All interventions of one layer join the rows of the layers below and go up together: every weight is used
once per chunk, in large matrix products. Only the answer position is unembedded. Nothing is approximated: the model's own layers do
the work, whatever their family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from circuitlab.errors import BadParameterError
from circuitlab.model.bridge_sites import edit_hooks
from circuitlab.model.engine.base_run import BaseRun, hidden_of, record
from circuitlab.model.engine.window import in_window

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.protocol import Edit, Intervention
    from circuitlab.model.transformer_lens import BridgeModel

__all__ = ["Engine"]

_LEVEL = 1_000_003  # marks the engine's hooks, so that nobody else's are removed


class Engine:
    """Runs interventions on the layers of a bridge.

    Parameters
    ----------
    model : BridgeModel
        The adapter whose layers do the work.
    tokens_per_pass : int
        Positions that go through a layer together: large enough for full speed of the matrix products, small enough for the cache.
    """

    def __init__(self, model: BridgeModel, tokens_per_pass: int = 2048) -> None:
        self._model = model
        self._blocks = list(model.bridge.blocks)
        self._tokens = tokens_per_pass

    def base_run(self, tokens: Int[Tensor, "prompt pos"], at: Int[Tensor, " prompt"]) -> BaseRun:
        """Run prompts once, unedited."""
        return record(self._blocks, lambda: self._model.logits(tokens, at))

    @torch.no_grad()
    def sweep(
        self,
        base: BaseRun,
        interventions: Sequence[Intervention],
        at: Int[Tensor, " prompt"],
    ) -> Float[Tensor, "intervention prompt d_model"]:
        """The residual stream leaving the last layer at one position of each prompt, for each intervention.

        Parameters
        ----------
        base : BaseRun
            From `base_run`.
        interventions : sequence of Intervention
            Any order; those that start at the same position share their passes.
        at : Tensor of int, shape (prompt,)
            Position that is read.
        """
        out = base.entering[-1][torch.arange(len(at)), at].expand(len(interventions), -1, -1).clone()
        starts: dict[int, list[int]] = {}
        for index, one in enumerate(interventions):
            self._check(one)
            starts.setdefault(one.start, []).append(index)
        for start, indices in starts.items():
            live = sorted(indices, key=lambda i: interventions[i].layer)
            out[live] = self._pass(base, [interventions[i] for i in live], at, start)
        return out

    def _pass(self, base: BaseRun, ordered: list[Intervention], at: Tensor, start: int) -> Tensor:
        """One growing pass: rows join at their first layer and go up together."""
        prompts = len(at)
        rows = base.entering[0][:0, start:]
        joined = 0
        for layer in range(len(self._blocks)):
            entering = base.entering[layer][:, start:]
            new = sum(one.layer == layer for one in ordered)
            if new:
                rows = torch.cat([rows, entering.repeat(new, 1, 1)])
                joined += new
            if joined:
                rows = self._layer(base, layer, rows, ordered[:joined], start)
        held = (at - start).repeat(len(ordered))
        return rows[torch.arange(len(rows)), held].unflatten(0, (len(ordered), prompts))

    def _layer(self, base: BaseRun, layer: int, rows: Tensor, live: list[Intervention], start: int) -> Tensor:
        prompts = len(rows) // len(live)
        size = max(1, self._tokens // (prompts * rows.shape[1]))
        done = []
        for first in range(0, len(live), size):
            group = live[first : first + size]
            edits = [
                in_window(edit, start, slice(i * prompts, (i + 1) * prompts))
                for i, one in enumerate(group)
                for edit in one.edits
                if edit.layer == layer
            ]
            done.append(self._block(base, layer, rows[first * prompts : (first + len(group)) * prompts], edits, start))
        return torch.cat(done) if len(done) > 1 else done[0]

    def _block(self, base: BaseRun, layer: int, rows: Tensor, edits: list[Edit], start: int) -> Tensor:
        prompts = base.entering[0].shape[0]
        owner = torch.arange(prompts, device=rows.device).repeat(len(rows) // prompts)
        args, named = base.calls[layer].on(start, base.cache(owner, start))
        hooks, check_fired = edit_hooks(self._model.site_map, edits)
        points = self._model.bridge.hook_dict
        for name, write in hooks:
            points[name].add_hook(write, level=_LEVEL)
        try:
            out = hidden_of(self._blocks[layer](rows, *args, **named))
        finally:
            for name, _ in hooks:
                points[name].remove_hooks(level=_LEVEL)
        check_fired()
        return out

    def _check(self, one: Intervention) -> None:
        if not one.edits:
            what = "An intervention without edits changes nothing."
            raise BadParameterError(what, "Give it at least one edit.")
        for edit in one.edits:
            self._model.site_map.check(edit.site, edit.layer)
