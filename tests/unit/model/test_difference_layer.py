"""The layer that multiplies differences is the layer, whatever pieces it is divided into: with products in float32 nothing is lost."""

from __future__ import annotations

import pytest
import torch

from circuitlab.model.engine import Difference, Engine, difference_layer, layer_pass
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.testing.tiny import shared_tiny_model, tiny_batch

FAMILIES = ["llama", "gpt2", "gpt_neox", "gemma2", "qwen3", "mixtral"]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


class Unrounded(Difference):
    """Products of differences in float32."""

    def _weight(self, linear):
        return linear.weight

    def room(self, name, rows, width, device=None):
        return torch.empty(rows, width, device=device)


def swept(model, difference, batch, starts=(0, 3)) -> torch.Tensor:
    """Streams of runs with edits of one or two layers at every site, from several positions on."""
    engine, n_layers = Engine(model.decoder, difference, tokens_per_block=70), model.spec.n_layers
    sites = sorted(model.sites & {Site.Z, Site.Q, Site.V, Site.RESID_PRE, Site.ATTN_OUT, Site.MLP_OUT}, key=lambda site: site.value)
    source = engine.base_run(batch.corrupt, batch.end, sites)
    edit_sets = []
    for start in starts:
        positions = torch.full_like(batch.end, start)
        rows = range(len(positions))
        for site in sites:
            for layer in range(n_layers):
                head = 1 if site.per_head else None
                value = source.sites[site][layer] if head is None else source.sites[site][layer][:, :, head]
                edit_sets.append(EditSet((Edit(site, layer, value, head=head),), start))
                later = source.sites[Site.Z][-1][:, :, 0]
                at_start = Edit(site, layer, value[rows, positions], head=head, positions=positions)
                edit_sets.append(EditSet((at_start, Edit(Site.Z, n_layers - 1, later, head=0)), start))
    return engine.sweep(engine.base_run(batch.clean, batch.end, sites), edit_sets)


@pytest.mark.parametrize("size", [1 << 19, 1 << 12, 300, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_differences_without_rounding_are_exact_in_pieces_of_every_size(monkeypatch, family, size) -> None:
    model = shared_tiny_model(family)
    batch = tiny_batch(model, 3, unequal=True)
    for module in (difference_layer, layer_pass):
        monkeypatch.setattr(module, "IN_CACHE", size)
    exact = swept(model, None, batch)
    assert (exact[:, 0] - exact[0, 0]).abs().max() > 1e-3
    torch.testing.assert_close(swept(model, Unrounded(), batch), exact, **CLOSE)


def test_runs_that_join_at_z_are_not_projected(monkeypatch) -> None:
    model = shared_tiny_model("llama")
    batch, products = tiny_batch(model, 3), []

    class Counting(Unrounded):
        def product(self, name, linear, change):
            products.append(name)
            return super().product(name, linear, change)

    engine, last = Engine(model.decoder, Counting()), model.spec.n_layers - 1
    base = engine.base_run(batch.clean, batch.end, [Site.Z])
    value = base.sites[Site.Z][last][:, :, 1] + 1
    engine.sweep(base, [EditSet((Edit(Site.Z, last, value, head=1),))])
    assert products == ["o", "up", "gate", "down"]
    products.clear()
    engine.sweep(base, [EditSet((Edit(Site.Q, last, value, head=1),))])
    assert products == ["q", "k", "v", "o", "up", "gate", "down"]


@pytest.mark.parametrize(("rows", "each", "most"), [(12, 4, 4), (12, 4, 9), (12, 4, 3), (12, 4, 100), (5, 5, 2), (3, 1, 2)])
def test_every_row_is_in_one_slice_beside_its_base_values(rows, each, most) -> None:
    covered = []
    for part, base in difference_layer._in_cache(rows, each, difference_layer.IN_CACHE // most):
        mine, of_base = list(range(rows))[part], list(range(each))[base]
        assert len(mine) <= most
        assert [row % each for row in mine] == of_base * (len(mine) // len(of_base))
        covered += mine
    assert covered == list(range(rows))
