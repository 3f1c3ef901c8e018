"""Runs that the cards of several heads share: each prompt is run once for all of them, and all heads are knocked out together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.scores.attention import AttentionPattern

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.core.nodes import Head
    from circuitlab.execute.spots import PromptRun
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.interventions.knockout import Computed, KnockoutKind
    from circuitlab.model.protocol import Model

__all__ = ["CardRuns"]

_Kept = TypeVar("_Kept")

_BY_POSITION: KnockoutKind = "mean"
_OVER_POSITIONS: KnockoutKind = "mean_over_positions"
_CLEAR = {"float64": 1e-6, "float32": 1e-2}
"""By how much, in logits, a token must lead for one pass over a whole text to choose it as a token after another would: far more than the
rounding of either. In 16 bits nothing is clear."""


@dataclass(frozen=True, eq=False)
class CardRuns:
    """What cards of some heads of one model run, each thing once and on first use.

    Parameters
    ----------
    model : Model
    heads : tuple of Head
        All heads that will be asked about; what serves several of them is computed for all.
    """

    model: Model
    heads: tuple[Head, ...]
    _kept: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False)

    def pattern(self, head: Head, one: ContrastBatch) -> AttentionPattern:
        """Where a head looks in the clean prompt of a batch of one pair, as `Model.attention` gives it."""
        from circuitlab.model.token_text import texts_of  # noqa: PLC0415 - torch

        if Site.PATTERN not in self.model.sites:
            self.model.attention(head, one)  # raises with the reason
        ids = one.clean[0, : int(one.end[0]) + 1].tolist()
        values = self._patterns(ids, {name: int(at[0]) for name, at in one.marks.items()})[head.layer][head.head]
        return AttentionPattern(head, texts_of(self.model.tokenizer, ids), values.float().cpu().numpy(), self.model.spec.name)

    def prompt(self, head: Head, ids: Sequence[int]) -> PromptRun:
        """A prompt run for questions about a head, and about all the others where nothing is edited.

        Raises
        ------
        ModelError
            If the model cannot be taken apart; an edited one is run for each layer by itself, since edits between two layers may
            break the sum for the upper one only.
        """
        import torch  # noqa: PLC0415 - listing commands must not load torch

        from circuitlab.execute.spots import PromptRun, taken_apart  # noqa: PLC0415
        from circuitlab.model.places import Places  # noqa: PLC0415

        layers = [head.layer] if self.model.spec.edits else self._layers

        def run() -> PromptRun:
            places = Places(torch.tensor([list(ids)]), torch.tensor([len(ids) - 1]))
            with taken_apart(self.model):
                return PromptRun.of(self.model, places, layers, self._patterns(ids, {}))

        return self._once(("prompt", tuple(ids), *layers), run)

    def knocked_out(self, head: Head, batch: ContrastBatch) -> tuple[np.ndarray, np.ndarray]:
        """The metric with the head in place, and with its mean over the corrupt prompts for it, pair by pair.

        The mean is that of each position where all prompts have the same length, and that of all positions otherwise.
        """
        clean, without = self._once(("metric", batch.task.digest, batch.metric), lambda: self._measured(batch))
        return clean, without[self.heads.index(head)]

    def mean(self, head: Head, batch: ContrastBatch) -> Tensor:
        """The head's mean over all positions of the corrupt prompts, shape (d_head,), in float64."""
        return self._means(batch)[1].tables[self.heads.index(head)][0]

    def continued(self, ids: Sequence[int], new: int) -> tuple[int, ...]:
        """The tokens that the model writes after a prompt with all heads in place, greedily."""
        return self._once(("text", tuple(ids), new), lambda: _written(self.model, ids, new))

    def continued_on(self, edited: Model, ids: Sequence[int], new: int) -> tuple[int, ...]:
        """The tokens that an edited model writes after a prompt, greedily.

        The tokens that the unedited model writes are tried first, all in one pass: most edits change few of them. Only what follows the
        first token that is not clearly the same is written token by token.
        """
        tried = self.continued(ids, new)
        same = _agreeing(edited, ids, tried)
        if same == len(tried):
            return tried
        return (*tried[:same], *_written(edited, [*ids, *tried[:same]], new - same))

    @property
    def _layers(self) -> list[int]:
        return sorted({head.layer for head in self.heads})

    def _once(self, key: tuple[Any, ...], make: Callable[[], _Kept]) -> _Kept:
        if key not in self._kept:
            self._kept[key] = make()
        kept: _Kept = self._kept[key]
        return kept

    def _patterns(self, ids: Sequence[int], marks: Mapping[str, int]) -> dict[int, Tensor]:
        """Attention patterns of a prompt by layer, (head, query, key); marks matter to edits alone."""
        import torch  # noqa: PLC0415

        named = dict(marks) if self.model.spec.edits else {}

        def run() -> dict[int, Tensor]:
            at = {name: torch.tensor([place]) for name, place in named.items()}
            seen = self.model.capture(torch.tensor([list(ids)]), [Site.PATTERN], layers=self._layers, marks=at or None)
            return dict(zip(self._layers, seen[Site.PATTERN][0], strict=True))

        return self._once(("patterns", tuple(ids), *sorted(named.items())), run)

    def _means(self, batch: ContrastBatch) -> list[Computed]:
        """Means of all heads over the corrupt prompts, of both kinds, from one run of each prompt."""
        from circuitlab.model.interventions.knockout import Computed, Knockout  # noqa: PLC0415 - torch

        def run() -> list[Computed]:
            every = Knockout([str(head) for head in self.heads], _OVER_POSITIONS, batch=batch)
            every.check(self.model)
            return Computed.of_kinds(self.model, batch, (_BY_POSITION, _OVER_POSITIONS), every.spots)

        return self._once(("means", batch.task.digest), run)

    def _measured(self, batch: ContrastBatch) -> tuple[np.ndarray, np.ndarray]:
        """The metric of the unedited model, (pair,), and without each head, (head, pair)."""
        from circuitlab.execute.needs import has_decoder  # noqa: PLC0415
        from circuitlab.execute.reference import with_reference  # noqa: PLC0415
        from circuitlab.execute.spots import torch_modes  # noqa: PLC0415
        from circuitlab.execute.sweeps import batch_by_length, sweeps_on, unedited_together  # noqa: PLC0415
        from circuitlab.metrics import get_metric  # noqa: PLC0415

        with torch_modes():
            computed, metric = self._means(batch)[0], get_metric(batch.metric)
            ready = with_reference(self.model, metric, batch)
            sweeps = sweeps_on(self.model, metric, "exact" if has_decoder(self.model) else "hooks")
            clean, without = np.zeros(batch.n_pairs), np.zeros((len(self.heads), batch.n_pairs))
            for pairs in batch_by_length(ready, unedited_together(ready), alike=False):
                run = sweeps.clean(ready.select(pairs))
                clean[pairs] = run.metric
                without[:, pairs] = run.sweep(self._edits(ready.select(pairs), computed))
        return clean, without

    def _edits(self, batch: ContrastBatch, computed: Computed) -> list[EditSet]:
        """For each head, its mean at every position of some prompts."""
        import torch  # noqa: PLC0415

        from circuitlab.model.places import Places  # noqa: PLC0415

        rows, dtype = computed.rows(Places.of(batch), None), getattr(torch, self.model.spec.dtype)
        values = [table[rows.to(table.device)].to(dtype).expand(*batch.clean.shape, -1) for table in computed.tables]
        return [EditSet((Edit(Site.Z, head.layer, value, head.head),)) for head, value in zip(self.heads, values, strict=True)]


def _written(model: Model, ids: Sequence[int], new: int) -> tuple[int, ...]:
    """What a model writes after a prompt, greedily."""
    generation = model.generate(list(ids), new)
    return (generation[0] if isinstance(generation, tuple) else generation).ids


def _agreeing(model: Model, ids: Sequence[int], tried: Sequence[int]) -> int:
    """How many of some tokens, from the first, the model itself would clearly write after a prompt: in one pass over all of them."""
    import torch  # noqa: PLC0415

    from circuitlab.core.errors import ModelError  # noqa: PLC0415
    from circuitlab.execute.spots import torch_modes  # noqa: PLC0415

    margin = _CLEAR.get(model.spec.dtype)
    if margin is None or model.length_dependent:
        return 0
    tokens, last = torch.tensor([[*ids, *tried[:-1]]]), model.spec.n_layers - 1
    with torch_modes():
        try:
            stream = model.capture(tokens, [Site.RESID_POST], layers=[last])[Site.RESID_POST][0, 0, len(ids) - 1 :]
            best = model.unembed(stream).topk(2, dim=-1)
        except ModelError:  # no such site, or logits that do not follow from it: written token by token
            return 0
    clear = (best.indices[:, 0].cpu() == torch.tensor(list(tried))) & (best.values[:, 0] - best.values[:, 1] > margin).cpu()
    return int(clear.long().cumprod(0).sum())
