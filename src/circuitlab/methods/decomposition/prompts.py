"""The unedited runs of a few pairs, and the irrelevant part of a source's output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError
from circuitlab.execute.memory import Fits, PassSizes, fits_in, pass_bytes
from circuitlab.execute.sweeps import batch_by_length
from circuitlab.methods.decomposition.source import Options, Source

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Decoder, Trace
    from circuitlab.model.protocol import Model

__all__ = ["Means", "Prompts", "prompts_of", "sources_together"]

_FIELDS = ("z", "k", "v", "mlp_out")
_PAIRS_PER_PASS = 8


@dataclass(frozen=True, eq=False)
class Means:
    """Mean outputs over the corrupt prompts of a batch.

    Parameters
    ----------
    values : dict
        From (field, layer) to the mean, shape (pos or 1, ...): by position if all prompts have the same length. Layer 0 also has
        ``"resid_pre"``, the embedding.
    """

    values: dict[tuple[str, int], Float[Tensor, "pos ..."]]

    @classmethod
    @torch.no_grad()
    def of(cls, decoder: Decoder, batch: ContrastBatch, fits: Fits | None = None) -> Means:
        """Run every corrupt prompt once and average in float64; a pass holds as many as ``fits`` allows."""
        unpadded = batch.mask.all()
        sums: dict[tuple[str, int], Tensor] = {}
        for pairs in batch_by_length(batch, _PAIRS_PER_PASS, alike=False, fits=fits):
            group = batch.select(pairs)
            real = group.mask[..., None].double()
            for key, value in _outputs(decoder.trace(decoder.embed(group.corrupt))):
                flat = value.flatten(2).double() * real
                sums[key] = sums.get(key, 0) + (flat.sum(0) if unpadded else flat.sum((0, 1), keepdim=False)[None])
        count = batch.n_pairs if unpadded else int(batch.mask.sum())
        return cls({key: value / count for key, value in sums.items()})


def _outputs(trace: Trace) -> Iterator[tuple[tuple[str, int], Tensor]]:
    yield ("resid_pre", 0), trace.layers[0].resid_pre
    for layer, values in enumerate(trace.layers):
        for field in _FIELDS:
            yield (field, layer), getattr(values, field)


@dataclass(frozen=True, eq=False)
class Prompts:
    """The unedited runs of a few pairs.

    Parameters
    ----------
    decoder, batch : Decoder, ContrastBatch
        The model and the pairs.
    clean, corrupt : Trace
        Every activation of both runs; the clean one is decomposed.
    start : int
        First position at which anything can be relevant.
    means : Means or None
        Mean outputs, for the baseline ``"mean"``.
    baseline : str
        As in `Options`.
    """

    decoder: Decoder
    batch: ContrastBatch
    clean: Trace
    corrupt: Trace
    start: int
    means: Means | None
    baseline: str

    def irrelevant(self, field: str, layer: int) -> Float[Tensor, "pair window ..."]:
        """The irrelevant part of this layer's output if it is a source."""
        true: Tensor = getattr(self.clean.layers[layer], field)[:, self.start :]
        if self.baseline == "corrupt":
            other: Tensor = getattr(self.corrupt.layers[layer], field)
            return other[:, self.start :]
        if self.means is None:
            return torch.zeros_like(true)
        mean = self.means.values[field, layer].to(true)
        along = mean[self.start :] if len(mean) > 1 else mean
        return along.unflatten(1, true.shape[2:]).expand_as(true)

    def places(self, source: Source) -> Bool[Tensor, "pair window"]:
        """Mask of the positions at which a source is relevant."""
        return source.places(self.batch)[:, self.start :].to(self.clean.final.device)

    @property
    def end(self) -> Tensor:
        """The answer position of each pair, counted from the start of the window."""
        return (self.batch.end - self.start).to(self.clean.final.device)


@torch.no_grad()
def prompts_of(
    model: Model,
    batch: ContrastBatch,
    sources: Sequence[Source],
    options: Options,
    todo: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], Prompts]]:
    """The pairs of a batch (those in ``todo``, or all) a few at a time: their numbers, and their runs.

    A group holds as many pairs as fit in ``options.tokens_together`` with all sources. Positions before the first one at which a source is
    relevant (with a corrupt baseline, before the prompts differ) are left out, because nothing is relevant there.
    """
    decoder, sizes = model.decoder, PassSizes.of(model)
    if decoder.standing is not None:
        what = f"Contextual decomposition has rules for the parts of a model, but none for the edits of {model.spec.name}."
        raise ModelError(what, "Decompose the unedited model, or use activation_patching, which is exact with every edit.")
    fits = fits_in(lambda _window, length: 2 * sizes.traced(length, length) + sizes.source(length), "A decomposition")
    means = Means.of(decoder, batch, fits) if options.baseline == "mean" else None
    for pairs in batch_by_length(batch, _pairs_together(batch, len(sources), options), todo, fits=fits):
        group = batch.select(pairs)
        clean, corrupt = (decoder.trace(decoder.embed(tokens)) for tokens in (group.clean, group.corrupt))
        yield pairs, Prompts(decoder, group, clean, corrupt, _start(group, sources, options), means, options.baseline)


def sources_together(model: Model, prompts: Prompts, options: Options) -> int:
    """Number of sources in one pass, limited by ``options.tokens_together`` positions and the memory of a pass."""
    length, pairs = prompts.batch.clean.shape[1], prompts.batch.n_pairs
    window = length - prompts.start
    return max(1, min(options.tokens_together // (window * pairs), pass_bytes() // (pairs * PassSizes.of(model).source(window))))


def _start(batch: ContrastBatch, sources: Sequence[Source], options: Options) -> int:
    masks = {source.at: source.places(batch) for source in sources}
    relevant = torch.stack(list(masks.values())).any(0)
    if options.baseline == "corrupt":
        relevant = relevant & (torch.arange(relevant.shape[1]) >= batch.first_difference()[:, None])
    first = torch.where(relevant.any(1), relevant.int().argmax(1), batch.end)
    return int(torch.minimum(first, batch.end).min())


def _pairs_together(batch: ContrastBatch, n_sources: int, options: Options) -> int:
    first = batch.first_difference() if options.baseline == "corrupt" else batch.end * 0
    window = float((batch.end + 1 - first).clamp(min=1).float().mean())
    return max(1, min(batch.n_pairs, round(options.tokens_together / (n_sources * window))))
