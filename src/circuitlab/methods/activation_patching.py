"""Activation patching: swap one node's activation between the clean and the corrupt run, and read the metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.in_step import ByLayer
from circuitlab.core.progress import step
from circuitlab.execute.checkpoint import PairRows
from circuitlab.execute.chunks import Chunks, Held, window_and_length
from circuitlab.execute.contract import fields_as_tuples, provenance_of
from circuitlab.execute.memory import PassSizes, fits_in, most_positions, pass_bytes
from circuitlab.execute.needs import has_decoder, is_streamed, prepared
from circuitlab.execute.nodes_in_trace import NodeSelection
from circuitlab.execute.reference import with_reference
from circuitlab.execute.streamed_sweeps import any_sweeps_on
from circuitlab.execute.sweeps import (
    EngineName,
    Precision,
    Run,
    Sweeps,
    batch_by_length,
    pairs_together,
    require_engine,
    unedited_together,
)
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.execute.cost import RunSize
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
_SAMPLE_PAIRS, _SAMPLE_PATCHES = 2, 12
"""Size of the sample that reduced precision is checked on: its runs in full precision each cost more than two in bfloat16."""


class _Sample(NamedTuple):
    """Some pairs, and indices of patches, that are run in full precision, too."""

    pairs: Sequence[int] = ()
    patches: Sequence[int] = ()

    @classmethod
    def of(cls, pairs: int, patches: int) -> _Sample:
        """Pairs and patches that are spread evenly, from the first to the last."""
        spread = np.linspace(0, patches - 1, min(_SAMPLE_PATCHES, patches)).round().astype(int).tolist()
        return cls(range(0, pairs, max(1, pairs // _SAMPLE_PAIRS)), spread)


class _Patch(NamedTuple):
    """One edit set: a node of a part, and the position or mark that is patched (None for all positions)."""

    part: str
    layer: int
    head: int | None
    place: str | None


@dataclass(frozen=True)
class ActivationPatching:
    """Total effect of replacing one node's output (Vig et al. 2020; Meng et al. 2022; Heimersheim and Nanda 2024).

    Denoising runs the corrupt prompt with one activation from the clean run. The score is ``metric(patched) - metric(corrupt)``: how
    much this node alone restores. Noising runs the clean prompt with one activation from the corrupt run. The score is
    ``metric(clean) - metric(patched)``: how much is lost without it. In both cases positive means that the node helps the answer, and
    everything downstream is recomputed.

    Parameters
    ----------
    direction : {"denoising", "noising"}
        Whether the corrupt run (denoising) or the clean run (noising) is edited.
    parts : tuple of str
        Any of heads, attns, mlps, resid_pre, resid_mid, resid_post.
    site : {"z", "q", "k", "v", "pattern"}
        The value of a head that is patched: its output before the output projection (z), its query, key or value as projected, or its
        attention pattern. Keys and values belong to shared key/value heads, so their scores are the part ``kv_heads``.
    positions : tuple of str
        ``("all",)`` patches all positions at once; ``("each",)`` patches one position at a time, for prompts of equal length; otherwise
        there is one score for each named mark (for example ``("S2", "END")``), which patches that position only.
    engine : {"exact", "hooks"}
        ``"exact"`` recomputes only what a patch can change; ``"hooks"`` runs the whole model again. They agree up to rounding.
    precision : {"full", "bf16_difference"}
        ``"bf16_difference"`` multiplies what an edit changes in bfloat16, on top of an unedited run in full precision. Its error
        against full precision is measured on a sample of every run and stored in ``provenance.measured``.
    pairs_per_pass : int, optional
        Pairs in one pass; by default chosen by their size. It affects cost, not results.

    Notes
    -----
    Cost: pairs x nodes x positions runs, each only from the patched layer and position on; nothing is approximated. Scores are not
    additive: redundant nodes score low one by one, and nodes that are needed jointly are counted more than once. Scores are in metric
    units; ``total`` is the clean-corrupt gap.

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
    precision: Precision = "full"
    pairs_per_pass: int | None = field(default=None, metadata={"identity": False})

    @property
    def contrastive(self) -> bool:
        """Always true: equal prompts have no difference to swap."""
        return True

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that it edits; a model that lacks one is refused."""
        return tuple(dict.fromkeys(self._site(part) for part in self.parts))

    @property
    def streamed_fault(self) -> str:
        """Why it cannot run on a streamed model; empty if it can."""
        return (
            "engine='hooks' runs the whole model for every patch; the exact engine gives the same numbers" if self.engine == "hooks" else ""
        )

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        if self.direction not in {"denoising", "noising"}:
            raise UnknownNameError("direction", self.direction, ["denoising", "noising"])
        if self.site not in _INSIDE:
            raise UnknownNameError("site", self.site, _INSIDE)
        if self.precision not in {"full", "bf16_difference"}:
            raise UnknownNameError("precision", self.precision, ["full", "bf16_difference"])
        require_engine(self.engine)
        if self.pairs_per_pass is not None and self.pairs_per_pass < 1:
            raise BadParameterError(f"pairs_per_pass={self.pairs_per_pass} is less than 1.", "Use at least 1.")
        for part in self.parts:
            if part not in _SITES:
                raise UnknownNameError("part", part, _SITES)
        alone = {"all", _EACH} & set(self.positions)
        if not self.parts or not self.positions or (alone and len(self.positions) > 1):
            what = f"parts={self.parts}, positions={self.positions} cannot be patched."
            raise BadParameterError(what, "Name at least one part, and either ('all',), ('each',) or marks of the task.")

    def passes(self, size: RunSize) -> float:
        """Forward passes: one run for every node and position, from its layer on."""
        return size.rerun(size.nodes(self.parts, self.site) * size.places(self.positions))

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Patch every node; parts have shape (pair[, mark], layer[, head]) in metric units."""
        batch = with_reference(model, metric, batch)
        marks = self._marks(batch)
        patches = list(self._patches(model, marks))
        sample = _Sample() if self.precision == "full" else _Sample.of(batch.n_pairs, len(patches))
        shapes = {"clean": (), "corrupt": (), "effects": (len(patches),)}
        rows = PairRows.of(batch.n_pairs, shapes | ({"sample": (len(sample.patches),)} if sample.patches else {}))
        self._fill(rows, model, metric, batch, patches, sample)
        effects, clean, corrupt = rows.arrays["effects"], rows.arrays["clean"], rows.arrays["corrupt"]
        arrays = {"total": clean - corrupt, "clean": clean, "corrupt": corrupt, **self.shape(effects, model, marks)}
        about = provenance_of(self, model, batch, metric)
        if self.precision != "full":
            about = msgspec.structs.replace(about, measured=_error(effects, rows.arrays["sample"], sample))
        return HeadScores.build(arrays, about, marks)

    def effects_of(self, model: Model, batch: ContrastBatch, metric: Metric, columns: Sequence[int]) -> dict[str, np.ndarray]:
        """Some of the effects only, for methods that choose what is worth patching.

        Parameters
        ----------
        columns : sequence of int
            Which nodes, counted through all parts, marks, layers and heads in this order.

        Returns
        -------
        dict of str to ndarray
            ``effects`` (pair, column), and the metric of the two unedited runs, ``clean`` and ``corrupt`` (pair,).
        """
        patches = list(self._patches(model, self._marks(batch)))
        rows = PairRows.empty(batch.n_pairs, {"clean": (), "corrupt": (), "effects": (len(columns),)})
        self._fill(rows, model, metric, batch, [patches[i] for i in columns])
        return rows.arrays

    def _fill(
        self, rows: PairRows, model: Model, metric: Metric, batch: ContrastBatch, patches: list[_Patch], sample: _Sample | None = None
    ) -> None:
        sample = sample or _Sample()
        every = self._chunks(model, batch, len(patches) + len(sample.patches), rows.todo)
        sweeps = any_sweeps_on(model, metric, self.engine, self.precision, fits=every.fits)

        def scored(pairs: list[int]) -> ByLayer[dict[str, np.ndarray]]:
            here = [i for i, pair in enumerate(pairs) if pair in sample.pairs]
            return self._score(sweeps, batch.select(pairs), patches, sample._replace(pairs=here))

        for pairs, values in sweeps.each(scored, every.pairs, self.name):
            rows.put(pairs, values)
            step(int(rows.done.sum()), batch.n_pairs)

    def chunks(self, model: Model, batch: ContrastBatch) -> Chunks:
        """Chunks of pairs whose unedited runs share a pass, and their memory."""
        patches = len(list(self._patches(model, self._marks(batch))))
        sampled = 0 if self.precision == "full" else min(_SAMPLE_PATCHES, patches)
        return self.chunks_of(model, batch, patches + sampled)

    def chunks_of(self, model: Model, batch: ContrastBatch, patches: int) -> Chunks:
        """`chunks` for so many patches."""
        return self._chunks(model, batch, patches, range(batch.n_pairs))

    def _chunks(self, model: Model, batch: ContrastBatch, patches: int, todo: Sequence[int]) -> Chunks:
        size = self.pairs_per_pass or unedited_together(batch)
        if self.engine == "hooks" or not has_decoder(model):
            return Chunks(list(batch_by_length(batch, size, todo, alike=False)), lambda _pairs: 0, lambda _pairs: 0)
        sizes = Held(PassSizes.of(model), is_streamed(model))
        held = sizes.patching(patches, [site.value for site in self.sites], differences=self.precision != "full")
        most = most_positions(model.spec.d_model, sizes.sizes.itemsize)
        alone = fits_in(lambda window, length: held(1, window, length) + sizes.sweeping(1, window, length), self.name)

        def fits(pairs: int, window: int, length: int) -> bool:
            if pairs == 1:
                return alone(1, window, length)
            in_waves = sizes.streamed and patches * pairs * window > most
            return not in_waves and held(pairs, window, length) + sizes.sweeping(pairs, window, length) <= pass_bytes()

        return Chunks(
            list(batch_by_length(batch, size, todo, alike=False, fits=fits)),
            lambda pairs: held(len(pairs), *window_and_length(batch, pairs)),
            lambda pairs: sizes.sweeping(len(pairs), *window_and_length(batch, pairs)),
            lambda pairs: 1 + -(-patches // max(1, most // (len(pairs) * window_and_length(batch, pairs)[0]))),
        )

    def _site(self, part: str) -> Site:
        return _INSIDE[self.site] if part == "heads" else _SITES[part]

    def _marks(self, batch: ContrastBatch) -> tuple[str, ...] | None:
        return NodeSelection(self.parts, self.site, self.positions).marks(batch)

    def _patches(self, model: Model, marks: tuple[str, ...] | None) -> Iterator[_Patch]:
        for part in self.parts:
            count = _heads_of(model, self._site(part))
            for place in marks or (None,):
                for layer in range(model.spec.n_layers):
                    yield from (_Patch(part, layer, head, place) for head in (range(count) if count else (None,)))

    def _score(self, sweeps: Sweeps, batch: ContrastBatch, patches: list[_Patch], sample: _Sample) -> ByLayer[dict[str, np.ndarray]]:
        """Metric of the clean and the corrupt run, (pair,), and the signed effects, (pair, patch), of a few pairs; also of the sample."""
        sites = sorted({self._site(patch.part) for patch in patches}, key=lambda site: site.value)
        clean, corrupt = yield from sweeps.start_by_layer(batch, sites)
        edited, source = (corrupt, clean) if self.direction == "denoising" else (clean, corrupt)
        effects, in_full = np.zeros((batch.n_pairs, len(patches))), np.zeros((batch.n_pairs, len(sample.patches)))

        def patched(run: Run, pairs: list[int], columns: Sequence[int], into: np.ndarray) -> ByLayer[None]:
            base_run = run.select(pairs)
            live, edit_sets = self._edit_sets(batch.select(pairs), [patches[i] for i in columns], source.select(pairs))
            if live:
                into[np.ix_(pairs, live)] = ((yield from base_run.sweep_by_layer(edit_sets)) - base_run.metric).T

        groups = batch_by_length(batch, self.pairs_per_pass or pairs_together(batch, _nodes(patches)))
        works = [patched(edited, pairs, range(len(patches)), effects) for pairs in groups]
        if sample.patches and sample.pairs:  # beside the others, so that a streamed model is not read again for it
            works.append(patched(edited.in_full(), list(sample.pairs), sample.patches, in_full))
        yield from sweeps.together(works)
        sign = 1 if self.direction == "denoising" else -1
        values = {"clean": clean.metric, "corrupt": corrupt.metric, "effects": sign * effects}
        return values | ({"sample": sign * in_full} if sample.patches else {})

    def _edit_sets(self, batch: ContrastBatch, patches: list[_Patch], source: Run) -> tuple[list[int], list[EditSet]]:
        """Indices and edit sets of the patches that can have an effect: those at or after the first position at which runs differ."""
        first = int(batch.first_difference().min())
        live, edit_sets = [], []
        values = {site: source.site(site) for site in {self._site(patch.part) for patch in patches}}
        for index, patch in enumerate(patches):
            positions = self._positions(patch, batch)
            last = int((batch.end if positions is None else positions).max())
            if last < first:
                continue
            live.append(index)
            start = first if positions is None else int(positions.min())
            edit_sets.append(EditSet((self._edit(patch, positions, values),), start))
        return live, edit_sets

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

    def shape(self, signed: np.ndarray, model: Model, marks: tuple[str, ...] | None) -> dict[str, np.ndarray]:
        """Effects (pair, column) as parts, each (pair[, mark], layer[, head])."""
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


def _nodes(patches: list[_Patch]) -> int:
    """Number of nodes that are patched, at whatever positions."""
    return len({(patch.part, patch.layer, patch.head) for patch in patches})


def _error(effects: np.ndarray, exact: np.ndarray, sample: _Sample) -> dict[str, float]:
    """Error of ``effects``, (pair, patch), against those of the sample in full precision, (pair, patch of the sample), in metric units."""
    full = exact[list(sample.pairs)]
    error = np.abs(effects[np.ix_(sample.pairs, sample.patches)] - full)
    return {
        "precision_error_rms": float(np.sqrt(np.mean(error**2))),
        "precision_error_max": float(error.max()),
        "precision_effect_rms": float(np.sqrt(np.mean(full**2))),
    }


def _heads_of(model: Model, site: Site) -> int:
    """Size of the head axis of a site; 0 if it has none."""
    if not site.per_head:
        return 0
    return model.spec.n_kv_heads if site in {Site.K, Site.V} else model.spec.n_heads
