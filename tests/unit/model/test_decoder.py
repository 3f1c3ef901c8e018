"""The decoder's forward pass: taps, caches, gradients; and an edited model is never run without its edits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from circuitlab.core.errors import ModelError
from circuitlab.model import load_model
from circuitlab.model.decoder import Cache
from circuitlab.model.places import Places
from circuitlab.model.sites import Site
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model, tiny_batch, tiny_hf

IN_ORDER = ["resid_pre", "q", "k", "v", "pattern", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return shared_tiny_model(request.param)


def scaled(site, layer, factor):
    """A tap that multiplies the first half of the last axis of one site."""

    def tap(here, index, value):
        if (here, index) != (site, layer):
            return value
        width = value.shape[-1] // 2
        return torch.cat([value[..., :width] * factor, value[..., width:]], dim=-1)

    return tap


def test_a_tap_sees_every_site_in_order_and_changes_nothing_by_looking(model) -> None:
    decoder, tokens = model.decoder, tiny_batch(model, 3).clean
    seen = []

    def look(site, layer, value):
        seen.append((layer, site.value))
        return value

    embed = decoder.embed(tokens)
    assert torch.equal(decoder.forward(embed, tap=look), decoder.final(tokens))
    wanted = [name for name in IN_ORDER if name != "resid_mid" or not model.spec.parallel]
    assert seen == [(layer, name) for layer in range(model.spec.n_layers) for name in wanted]
    assert torch.equal(decoder.trace(embed, tap=look).final, decoder.final(tokens))


def test_a_trace_holds_what_the_run_went_on_with(model) -> None:
    decoder, tokens = model.decoder, tiny_batch(model, 3).clean
    for site in model.sites:
        tap = scaled(site, 1, 0.3)
        plain, trace = decoder.trace(decoder.embed(tokens)), decoder.trace(decoder.embed(tokens), tap=tap)
        before, after = (getattr(one.layers[1], site.value) for one in (plain, trace))
        assert torch.equal(tap(site, 1, before), after)
        assert torch.equal(trace.layers[1].projected[0], plain.layers[1].projected[0]) or site is Site.RESID_PRE
        assert torch.equal(trace.final, decoder.forward(decoder.embed(tokens), tap=tap))
        assert not torch.equal(trace.final, plain.final)


@pytest.mark.parametrize("pieces", [(4, 9), (1, 2, 9), (0, 9), (3, 4, 5, 6, 7, 8, 9)])
def test_a_run_in_pieces_with_a_cache_equals_the_whole(model, pieces) -> None:
    decoder, tokens = model.decoder, tiny_batch(model, 3).clean
    embed, tap = decoder.embed(tokens), scaled(Site.V, 1, 0.3)
    for how in (None, tap):
        cache, found, start = Cache(), [], 0
        for stop in pieces:
            found.append(decoder.forward(embed[:, start:stop], cache=cache, tap=how))
            start = stop
            assert cache.length() == cache.length(2) == stop
        torch.testing.assert_close(torch.cat(found, 1), decoder.forward(embed, tap=how), atol=1e-5, rtol=1e-5)


def test_a_prefilled_cache_serves_many_runs_and_stays_as_it_is(model) -> None:
    decoder, tokens = model.decoder, tiny_batch(model, 3).clean
    embed = decoder.embed(tokens)
    past = decoder.prefill(embed[:, :4], None, embed.shape[1])
    for _ in range(2):
        found = decoder.trace(embed[:, 4:], cache=past.copy())
        torch.testing.assert_close(found.final, decoder.final(tokens)[:, 4:], atol=1e-5, rtol=1e-5)
        assert past.length(1) == 4
    one = decoder.forward(embed[1:2, 4:], cache=past.select([1]))
    torch.testing.assert_close(one, decoder.final(tokens)[1:2, 4:], atol=1e-5, rtol=1e-5)


def test_a_run_goes_on_from_any_layer(model) -> None:
    decoder, tokens = model.decoder, tiny_batch(model, 3).clean
    trace = decoder.trace(decoder.embed(tokens))
    for layer in range(model.spec.n_layers):
        assert torch.equal(decoder.forward(trace.entering(layer), start_layer=layer), trace.final)


@pytest.mark.laws
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_flow_to_what_a_tap_uses(family) -> None:
    precise = load_model(tiny_hf(family, dtype=torch.float64))
    decoder, tokens = precise.decoder, tiny_batch(precise, 2).clean
    for site in precise.sites:

        def loss(factor, where=site):
            return decoder.forward(decoder.embed(tokens), tap=scaled(where, 1, factor))[:, -1].tanh().sum()

        factor = torch.nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        (found,) = torch.autograd.grad(loss(factor), factor)
        with torch.no_grad():
            expected = (loss(factor + 1e-4) - loss(factor - 1e-4)) / 2e-4
        assert abs(float(found)) > 1e-5, site
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_an_edited_model_is_never_run_without_its_edits(model) -> None:
    tokens = tiny_batch(model, 2).clean
    plain = model.decoder
    places = Places(tokens, torch.full((2,), tokens.shape[1] - 1))
    edited = replace(plain, standing=lambda _places: scaled(Site.Z, 1, 0.3))
    for run in (
        lambda: edited.final(tokens),
        lambda: edited.trace(plain.embed(tokens)),
        lambda: edited.forward(plain.embed(tokens)),
        lambda: edited.prefill(plain.embed(tokens), None, tokens.shape[1]),
    ):
        with pytest.raises(ModelError, match="edit"):
            run()
    trace = edited.traced_in(places)
    assert trace.changed == {(Site.Z, 1)}
    assert torch.equal(trace.final, edited.final(tokens, places))
    assert not torch.equal(trace.final, plain.final(tokens))
    assert plain.tap(None) is None
