"""A standing edit in a few lines: one site of one layer scaled at one mark, or everywhere; and the same edit as a fixed value for hooks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from circuitlab.model.places import Places
from circuitlab.model.sites import Edit, Site

FORWARD = (
    Site.RESID_PRE,
    Site.Q,
    Site.K,
    Site.V,
    Site.PATTERN,
    Site.Z,
    Site.ATTN_OUT,
    Site.RESID_MID,
    Site.MLP_OUT,
    Site.RESID_POST,
)
"""The order in which a layer computes its sites."""


@dataclass(frozen=True)
class Scaled:
    """Multiply a site of a layer by a factor: one head (None: all), at a mark (None: every position), half of its dimensions or all."""

    site: Site
    layer: int
    factor: float
    mark: str | None = None
    head: int | None = None
    half: bool = False

    def __call__(self, places: Places):
        """The tap on some places."""
        here = torch.ones(1, 1, dtype=torch.bool)
        if self.mark is not None:
            here = places.positions == places.mark(self.mark)[:, None]

        def tap(site, layer, value):
            if (site, layer) != (self.site, self.layer) or not here.any():
                return value
            return self.of(value, here)

        return tap

    def of(self, value, here):
        """The edited value, (*lead, prompt, pos, ...) or (*lead, prompt, head, query, key)."""
        if self.site is Site.PATTERN:
            mask = here[:, None, :, None]
            axis = -3
        else:
            mask = here[:, :, None, None] if self.site.per_head else here[:, :, None]
            axis = -2
        if self.half and self.site is not Site.PATTERN:
            mask = mask & (torch.arange(value.shape[-1]) < value.shape[-1] // 2)
        if self.head is not None:
            shape = [1] * value.ndim
            shape[axis] = value.shape[axis]
            mask = mask & (torch.arange(value.shape[axis]) == self.head).view(shape)
        return torch.where(mask, value * self.factor, value)


def logits_by_hooks(model, batch, standing: Scaled, edits=()):
    """Logits of the clean prompts with a standing edit and, after it, other edits, by hooks on the model."""
    runner = model.with_edits(list(edits)) if edits else model
    before = runner.capture(batch.clean, [standing.site], layers=[standing.layer])[standing.site][:, 0]
    here = torch.ones(1, before.shape[1], dtype=torch.bool)
    if standing.mark is not None:
        here = torch.arange(batch.clean.shape[1])[None] == batch.mark(standing.mark)[:, None]
    elif standing.site is Site.PATTERN:
        here = torch.ones(1, batch.clean.shape[1], dtype=torch.bool)
    first = Edit(standing.site, standing.layer, standing.of(before, here))
    # By hooks the middle of the stream is edited through what attention adds, after any edits of that and of what enters.
    in_order = sorted([first, *edits], key=lambda edit: (edit.layer, FORWARD.index(edit.site)))
    return model.with_edits(in_order).logits(batch.clean, batch.end)


class EditedModel:
    """A model with standing edits that runs on its decoder alone."""

    def __init__(self, model, standing) -> None:
        self.model, self.standing = model, standing
        self.spec, self.tokenizer, self.weights, self.sites = model.spec, model.tokenizer, model.weights, model.sites
        self.lacks, self.length_dependent = model.lacks, model.length_dependent

    @cached_property
    def decoder(self):
        """The model's decoder, with the edits."""
        return replace(self.model.decoder, standing=self.standing)

    def refresh(self) -> None:
        """Weights of a test do not change."""

    def unembed(self, resid, ids=None):
        """Logits of a residual stream."""
        return self.model.unembed(resid, ids)

    def logits(self, tokens, at, *, marks=None):
        """Next-token logits of the edited run."""
        return self.unembed(self.decoder.final(tokens, Places(tokens, at))[torch.arange(len(at)), at])

    def capture(self, tokens, sites, *, layers=None, at=None, marks=None):
        """Values of the edited run."""
        assert layers is None
        assert at is None
        trace = self.decoder.traced_in(Places(tokens, torch.full((len(tokens),), tokens.shape[1] - 1)))
        return {site: torch.stack([getattr(layer, site.value) for layer in trace.layers], dim=1) for site in sites}
