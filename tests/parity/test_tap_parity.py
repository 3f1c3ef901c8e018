"""The standing edits of an edited model equal hooks at every site of every family: in whole forward passes and in the engine's window."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from circuitlab.model.engine import CommonPrefix, Difference, Engine
from circuitlab.model.places import Places
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model, tiny_batch
from reference.standing import Scaled, logits_by_hooks

LAST = 2
CLOSE = {"atol": 2e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return shared_tiny_model(request.param)


def edited(model, standing):
    return replace(model.decoder, standing=standing)


def places_of(batch) -> Places:
    return Places.of(batch)


def sites_of(model):
    return sorted(model.sites, key=lambda site: site.value)


@pytest.mark.some(model=1, mark=3)
@pytest.mark.parametrize("mark", [None, "CHANGE", "END"])
def test_a_forward_pass_with_standing_edits_equals_hooks(model, mark) -> None:
    batch = tiny_batch(model, 3, unequal=True)
    plain = model.logits(batch.clean, batch.end)
    for site in sites_of(model):
        for layer in (1, LAST):
            if layer == LAST and mark == "CHANGE" and site not in {Site.RESID_PRE, Site.K, Site.V}:
                continue  # reaches no answer position
            standing = Scaled(site, layer, 0.3, mark, head=1 if site.per_head else None, half=True)
            if site is Site.RESID_PRE and layer == 1:
                standing = replace(standing, layer=0)
            expected = logits_by_hooks(model, batch, standing)
            final = edited(model, standing).final(batch.clean, places_of(batch))
            found = model.unembed(final[torch.arange(batch.n_pairs), batch.end])
            torch.testing.assert_close(found, expected, **CLOSE)
            if mark != "CHANGE":  # an earlier position may lie outside a sliding window
                assert float((found - plain).abs().max()) > 1e-3, (site, layer)


def patches(batch, base):
    """Edits of one site each: below the standing edit at one mark, and in its own layer at all positions."""
    rows, at = torch.arange(batch.n_pairs), batch.mark("CHANGE")
    for site, values in base.sites.items():
        head = 1 if site.per_head else None
        below, beside = (value if head is None else value[:, head] if site is Site.PATTERN else value[:, :, head] for value in values[:2])
        yield EditSet((Edit(site, 0, below[rows, at] * 0.5, head=head, positions=at),), int(at.min()))
        yield EditSet((Edit(site, 1, beside * 0.5, head=head),), 0)


@pytest.mark.some(mark=2)
@pytest.mark.parametrize(("mark", "layer"), [(None, 1), ("CHANGE", 1), ("END", LAST)])
def test_the_engine_writes_after_standing_edits_as_hooks_do(model, mark, layer, share) -> None:
    batch, family = tiny_batch(model, 3, unequal=True), model.spec.name.removeprefix("tiny-")
    for site in sites_of(model) if family in {"gpt2", "llama", "gemma3"} else share(sites_of(model), family, 3):
        standing = Scaled(site, layer, 0.3, mark, head=1 if site.per_head else None, half=True)
        engine = Engine(edited(model, standing))
        base = engine.base_run(batch.clean, batch.end, sites_of(model), marks=batch.marks)
        torch.testing.assert_close(model.unembed(base.final), logits_by_hooks(model, batch, standing), **CLOSE)
        sets = list(patches(batch, base))
        found = model.unembed(engine.sweep(base, sets))
        for one, logits in zip(sets, found, strict=True):
            torch.testing.assert_close(logits, logits_by_hooks(model, batch, standing, one.edits), **CLOSE)


@pytest.mark.some(model=1, site=3)
@pytest.mark.parametrize("site", [Site.RESID_PRE, Site.RESID_POST, Site.MLP_OUT])
def test_an_edit_is_not_moved_past_a_standing_edit(model, site) -> None:
    """What leaves a layer and what enters the next are two places, and a standing edit may stand between them."""
    batch = tiny_batch(model, 3)
    standing = Scaled(site, 1, 0.3, half=True)
    engine = Engine(edited(model, standing))
    base = engine.base_run(batch.clean, batch.end, [Site.MLP_OUT, Site.RESID_POST], marks=batch.marks)
    for patched in (Site.MLP_OUT, Site.RESID_POST):
        for layer in (0, 1):
            one = EditSet((Edit(patched, layer, base.sites[patched][layer] + 1.0),), 0)
            found = model.unembed(engine.sweep(base, [one]))[0]
            torch.testing.assert_close(found, logits_by_hooks(model, batch, standing, one.edits), **CLOSE)


def test_a_run_that_shares_its_beginning_has_the_same_standing_edits(model) -> None:
    batch = tiny_batch(model, 3, unequal=True)
    for site in sites_of(model):
        engine = Engine(edited(model, Scaled(site, 1, 0.3, head=1 if site.per_head else None)))
        clean, whole = (engine.base_run(rows, batch.end, [site], marks=batch.marks) for rows in (batch.clean, batch.corrupt))
        shared = CommonPrefix(clean, batch.first_difference(), 2)
        found = engine.base_run(batch.corrupt, batch.end, [site], shared=shared, marks=batch.marks)
        torch.testing.assert_close(found.final, whole.final, **CLOSE)
        torch.testing.assert_close(found.select([0, 2]).site(site), whole.select([0, 2]).site(site), **CLOSE)
        assert found.changed == whole.changed == {(site, 1)}


def test_differences_in_bfloat16_have_the_standing_edits_too(model) -> None:
    batch = tiny_batch(model, 3)
    engine = Engine(edited(model, Scaled(Site.Z, 1, 0.3, head=1)), Difference())
    base = engine.base_run(batch.clean, batch.end, [Site.Z], marks=batch.marks)
    patch = EditSet((Edit(Site.Z, 0, base.sites[Site.Z][0] * 0.5),), 0)
    found = model.unembed(engine.sweep(base, [patch]))[0]
    expected = logits_by_hooks(model, batch, Scaled(Site.Z, 1, 0.3, head=1), patch.edits)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
