"""Activation patching: swap one node's activation between the clean and the corrupt run and read the metric."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from circuitlab.errors import AlignmentError, BadParameterError, ModelError, UnknownNameError
from circuitlab.methods.base import provenance_of, step
from circuitlab.methods.base.sweeps import EngineName, like_pairs, metric_of, metric_of_sweep, require_engine
from circuitlab.model.protocol import Edit, Intervention, Site
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
_INSIDE = {"z": Site.Z, "q": Site.Q, "k": Site.K, "v": Site.V, "pattern": Site.PATTERN}
_EACH = "each"


class _Patch(NamedTuple):
    """One intervention: a node of a part, and the place it is limited to (None for all positions)."""

    part: str
    layer: int
    head: int | None
    place: str | None


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
        Any of heads, attns, mlps, resid_pre, resid_mid, resid_post.
    site : {"z", "q", "k", "v", "pattern"}
        What of a head is patched: its output before the output projection (z), its query, key or value as projected, or its attention
        pattern. Keys and values belong to shared key/value heads, so their scores are the part ``kv_heads``.
    positions : tuple of str
        ``("all",)`` patches every position at once; ``("each",)`` one position after the other, for prompts of equal length; otherwise
        one score per named mark (for example ``("S2", "END")``), each patching that position only.
    engine : {"exact", "hooks"}
        The exact engine recomputes only what a patch can reach; hooks rerun the model. They agree up to rounding.
    prompts_per_pass : int
        Prompts that a pass of the engine works on together. Changes cost, not results.

    Notes
    -----
    Cost: pairs x nodes x positions runs, each only from the patched layer and position on; nothing is approximated. Not additive:
    redundant nodes score low one by one, jointly needed nodes are counted more than once. Scores are stored in metric units;
    ``total`` is the clean-corrupt gap.

    References
    ----------
    Heimersheim and Nanda (2024), How to use and interpret activation patching, arXiv:2404.15255. Zhang and Nanda (2024),
    arXiv:2309.16042.
    """

    name: ClassVar[str] = "activation_patching"
    estimand: ClassVar[str] = "total effect on the metric of swapping a node's output between the clean and the corrupt run"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("hooks",)
    cost: ClassVar[str] = "pairs x nodes x positions runs, from the patched layer and position on"
    cite: ClassVar[tuple[str, ...]] = ("heimersheim2024", "zhang2024")

    direction: Literal["denoising", "noising"] = "denoising"
    parts: tuple[str, ...] = ("heads", "mlps")
    site: Literal["z", "q", "k", "v", "pattern"] = "z"
    positions: tuple[str, ...] = ("all",)
    engine: EngineName = field(default="exact", metadata={"identity": False})
    prompts_per_pass: int = field(default=4, metadata={"identity": False})

    @property
    def contrastive(self) -> bool:
        """Always: equal prompts leave nothing to swap."""
        return True

    def __post_init__(self) -> None:
        if self.direction not in {"denoising", "noising"}:
            raise UnknownNameError("direction", self.direction, ["denoising", "noising"])
        if self.site not in _INSIDE:
            raise UnknownNameError("site", self.site, _INSIDE)
        require_engine(self.engine)
        for part in self.parts:
            if part not in _SITES:
                raise UnknownNameError("part", part, _SITES)
        alone = {"all", _EACH} & set(self.positions)
        if not self.parts or not self.positions or (alone and len(self.positions) > 1):
            what = f"parts={self.parts}, positions={self.positions} cannot be patched."
            raise BadParameterError(what, "Name at least one part, and either ('all',), ('each',) or marks of the task.")

    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Patch every node; parts have shape (pair[, mark], layer[, head]) in metric units."""
        if missing := [part for part in self.parts if self._site(part) not in model.sites]:
            what = f"{model.spec.name} ({model.spec.family}) has no {', '.join(missing)} to patch."
            raise ModelError(what, f"Leave it out of parts; this model has {sorted(s.value for s in model.sites)}.")
        marks = self._marks(batch)
        patches = list(self._patches(model, marks))
        effects = np.zeros((batch.n_pairs, len(patches)))
        baseline = np.zeros((2, batch.n_pairs))
        done = 0
        for pairs in like_pairs(batch, self.prompts_per_pass):
            small = batch.select(pairs)
            baseline[:, pairs] = [metric_of(model, metric, small, tokens) for tokens in (small.clean, small.corrupt)]
            unedited = baseline[1 if self.direction == "denoising" else 0, pairs]
            effects[pairs] = self._sweep(model, small, metric, patches, unedited).T
            done += len(pairs)
            step(done, batch.n_pairs)
        clean, corrupt = baseline
        signed = effects - corrupt[:, None] if self.direction == "denoising" else clean[:, None] - effects
        arrays = {"total": clean - corrupt, "clean": clean, "corrupt": corrupt, **self._shape(signed, model, marks)}
        return HeadScores.build(arrays, provenance_of(self, model, batch, metric), marks)

    def _site(self, part: str) -> Site:
        return _INSIDE[self.site] if part == "heads" else _SITES[part]

    def _marks(self, batch: ContrastBatch) -> tuple[str, ...] | None:
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

    def _patches(self, model: Model, marks: tuple[str, ...] | None) -> Iterator[_Patch]:
        for part in self.parts:
            count = _heads_of(model, self._site(part))
            for place in marks or (None,):
                for layer in range(model.spec.n_layers):
                    yield from (_Patch(part, layer, head, place) for head in (range(count) if count else (None,)))

    def _sweep(
        self,
        model: Model,
        batch: ContrastBatch,
        metric: Metric,
        patches: list[_Patch],
        unedited: np.ndarray,
    ) -> np.ndarray:
        """Metric of the patched runs, (patch, pair); patches before the first difference are the unedited run."""
        edited, source = (batch.corrupt, batch.clean) if self.direction == "denoising" else (batch.clean, batch.corrupt)
        values = model.capture(source, sorted({self._site(part) for part in self.parts}, key=lambda site: site.value))
        first = int(batch.first_difference().min())
        found = np.repeat(unedited[None], len(patches), axis=0)
        if first > int(batch.end.max()):
            return found
        live, interventions = [], []
        for index, patch in enumerate(patches):
            positions = self._positions(patch, batch)
            if positions is not None and int(positions.max()) < first:
                continue
            start = first if positions is None else int(positions.min())
            live.append(index)
            interventions.append(Intervention((self._edit(patch, positions, values),), start))
        found[live] = metric_of_sweep(model, metric, batch, edited, interventions, self.engine)
        return found

    def _positions(self, patch: _Patch, batch: ContrastBatch) -> Tensor | None:
        if patch.place is None:
            return None
        return batch.end * 0 + int(patch.place) if self.positions == (_EACH,) else batch.mark(patch.place)

    def _edit(self, patch: _Patch, positions: Tensor | None, values: dict[Site, Tensor]) -> Edit:
        site = self._site(patch.part)
        value = values[site][:, patch.layer]
        if patch.head is not None:
            value = value[:, patch.head] if site is Site.PATTERN else value[:, :, patch.head]
        if positions is not None:
            value = value[range(len(positions)), positions]
        return Edit(site, patch.layer, value, head=patch.head, positions=positions)

    def _shape(self, signed: np.ndarray, model: Model, marks: tuple[str, ...] | None) -> dict[str, np.ndarray]:
        """Split the columns back into parts."""
        arrays, start = {}, 0
        lead = () if marks is None else (len(marks),)
        for part in self.parts:
            count = _heads_of(model, self._site(part))
            axes = (*lead, model.spec.n_layers, *((count,) if count else ()))
            stop = start + int(np.prod(axes))
            shared = self._site(part) in {Site.K, Site.V}
            arrays["kv_heads" if shared else part] = signed[:, start:stop].reshape(-1, *axes)
            start = stop
        return arrays


def _heads_of(model: Model, site: Site) -> int:
    """Size of the head axis of a site, 0 for none."""
    if not site.per_head:
        return 0
    return model.spec.n_kv_heads if site in {Site.K, Site.V} else model.spec.n_heads
