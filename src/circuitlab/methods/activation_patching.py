"""Activation patching: swap one node's activation between the clean and the corrupt run and read the metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from circuitlab.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.methods.base import provenance_of, step
from circuitlab.model.protocol import Edit, Site
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["ActivationPatching"]

_SITES = {
    "heads": Site.Z,
    "attns": Site.ATTN_OUT,
    "mlps": Site.MLP_OUT,
    "resid_pre": Site.RESID_PRE,
    "resid_mid": Site.RESID_MID,
    "resid_post": Site.RESID_POST,
}


class _Patch(NamedTuple):
    """One intervention: a node of a part, and the mark it is limited to."""

    part: str
    layer: int
    head: int | None
    mark: str | None


@dataclass(frozen=True)
class ActivationPatching:
    """Total effect of replacing one node's output (Vig et al. 2020; Meng et al. 2022; Heimersheim and Nanda 2024).

    Denoising runs the corrupt prompt with one activation taken from the clean run: ``metric(patched) - metric(corrupt)``, how
    much this node alone restores. Noising runs the clean prompt with one activation from the corrupt run:
    ``metric(clean) - metric(patched)``, how much is lost without it. Either way positive means the node helps the answer, and
    everything downstream is recomputed.

    Parameters
    ----------
    direction : {"denoising", "noising"}
        Which run is edited.
    parts : tuple of str
        Any of heads, attns, mlps, resid_pre, resid_mid, resid_post. Heads are patched at z, before the output projection.
    positions : tuple of str
        ``("all",)`` patches every position at once; otherwise one score per named mark (for example ``("S2", "END")``), each
        patching that position only.
    tokens_per_pass : int
        Rows of several interventions share one forward pass up to this many tokens. Changes cost, not results.

    Notes
    -----
    Cost: pairs x nodes x marks forward passes; nothing is approximated. Not additive: redundant nodes score low one by one,
    jointly needed nodes are counted more than once. Scores are stored in metric units; ``total`` is the clean-corrupt gap.

    References
    ----------
    Heimersheim and Nanda (2024), How to use and interpret activation patching, arXiv:2404.15255. Zhang and Nanda (2024),
    arXiv:2309.16042.
    """

    name: ClassVar[str] = "activation_patching"
    estimand: ClassVar[str] = "total effect on the metric of swapping a node's output between the clean and the corrupt run"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("hooks",)
    cost: ClassVar[str] = "pairs x nodes x marks forward passes"
    cite: ClassVar[tuple[str, ...]] = ("heimersheim2024", "zhang2024")

    direction: Literal["denoising", "noising"] = "denoising"
    parts: tuple[str, ...] = ("heads", "mlps")
    positions: tuple[str, ...] = ("all",)
    tokens_per_pass: int = field(default=2048, metadata={"identity": False})

    @property
    def contrastive(self) -> bool:
        """Always: equal prompts leave nothing to swap."""
        return True

    def __post_init__(self) -> None:
        if self.direction not in {"denoising", "noising"}:
            raise UnknownNameError("direction", self.direction, ["denoising", "noising"])
        for part in self.parts:
            if part not in _SITES:
                raise UnknownNameError("part", part, _SITES)
        if not self.parts or not self.positions or ("all" in self.positions and len(self.positions) > 1):
            what = f"parts={self.parts}, positions={self.positions} cannot be patched."
            raise BadParameterError(what, "Name at least one part, and either ('all',) or marks of the task.")

    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Patch every node; parts have shape (pair[, mark], layer[, head]) in metric units."""
        if missing := [part for part in self.parts if _SITES[part] not in model.sites]:
            what = f"{model.spec.name} ({model.spec.family}) has no {', '.join(missing)} to patch."
            raise ModelError(what, f"Leave it out of parts; this model has {sorted(s.value for s in model.sites)}.")
        marks = None if self.positions == ("all",) else self.positions
        for mark in marks or ():
            batch.mark(mark)
        patches = list(self._patches(model, marks))
        effects = np.zeros((batch.n_pairs, len(patches)))
        baseline = np.zeros((2, batch.n_pairs))
        chunks = list(_by_length(batch, self.tokens_per_pass))
        total = len(patches) * batch.n_pairs
        done = 0
        for pairs in chunks:
            small = batch.select(pairs)
            baseline[:, pairs] = [_value(model, metric, small, tokens) for tokens in (small.clean, small.corrupt)]
            for columns, values in self._sweep(model, small, metric, patches):
                effects[np.ix_(pairs, columns)] = values.T
                done += values.size
                step(done, total)
        clean, corrupt = baseline
        signed = effects - corrupt[:, None] if self.direction == "denoising" else clean[:, None] - effects
        arrays = {"total": clean - corrupt, "clean": clean, "corrupt": corrupt, **self._shape(signed, model, marks)}
        return HeadScores.build(arrays, provenance_of(self, model, batch, metric), marks)

    def _patches(self, model: Model, marks: Sequence[str] | None) -> Iterator[_Patch]:
        for part in self.parts:
            heads = range(model.spec.n_heads) if _SITES[part].per_head else (None,)
            for mark in marks or (None,):
                for layer in range(model.spec.n_layers):
                    yield from (_Patch(part, layer, head, mark) for head in heads)

    def _sweep(
        self,
        model: Model,
        batch: ContrastBatch,
        metric: Metric,
        patches: Sequence[_Patch],
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Metric of the patched runs, several interventions to a forward pass: (columns, values (patch, pair))."""
        edited, source = (batch.corrupt, batch.clean) if self.direction == "denoising" else (batch.clean, batch.corrupt)
        n, width = edited.shape
        values = model.capture(source, [_SITES[part] for part in self.parts])
        together = max(1, self.tokens_per_pass // (n * width))
        for start in range(0, len(patches), together):
            group = patches[start : start + together]
            edits = [_edit(patch, i, batch, values) for i, patch in enumerate(group)]
            tokens, at = edited.repeat(len(group), 1), batch.end.repeat(len(group))
            logits = model.edited(edits).logits(tokens, at)
            found = metric(logits.double().unflatten(0, (len(group), n)), batch)
            yield list(range(start, start + len(group))), found.cpu().numpy()

    def _shape(self, signed: np.ndarray, model: Model, marks: Sequence[str] | None) -> dict[str, np.ndarray]:
        """Split the columns back into parts."""
        arrays, start = {}, 0
        lead = () if marks is None else (len(marks),)
        for part in self.parts:
            axes = (*lead, model.spec.n_layers, *((model.spec.n_heads,) if _SITES[part].per_head else ()))
            stop = start + int(np.prod(axes))
            arrays[part] = signed[:, start:stop].reshape(-1, *axes)
            start = stop
        return arrays


def _edit(patch: _Patch, index: int, batch: ContrastBatch, values: dict[Site, Tensor]) -> Edit:
    """The edit of one intervention, limited to its own copy of the rows."""
    value = values[_SITES[patch.part]][:, patch.layer]
    if patch.head is not None:
        value = value[:, :, patch.head]
    positions = None
    if patch.mark is not None:
        positions = batch.mark(patch.mark)
        value = value[range(batch.n_pairs), positions]
    rows = slice(index * batch.n_pairs, (index + 1) * batch.n_pairs)
    return Edit(_SITES[patch.part], patch.layer, value, head=patch.head, positions=positions, rows=rows)


def _value(model: Model, metric: Metric, batch: ContrastBatch, tokens: Tensor) -> np.ndarray:
    return np.asarray(metric(model.logits(tokens, batch.end).double(), batch).cpu())


def _by_length(batch: ContrastBatch, tokens_per_pass: int) -> Iterator[list[int]]:
    """Pairs in chunks of like length, so that little padding is computed and a chunk fits one pass."""
    order = np.argsort(batch.end.cpu().numpy(), kind="stable")
    longest = int(batch.end.max()) + 1
    size = max(1, tokens_per_pass // longest)
    for start in range(0, len(order), size):
        yield [int(i) for i in order[start : start + size]]
