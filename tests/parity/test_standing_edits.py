"""Every method on an edited model equals the same method on a model whose weights do what the edits do; or refuses by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import ModelError
from circuitlab.evaluation.edge_forward import AblatedWrites, forward
from circuitlab.evaluation.edges import EdgeCircuitRunner
from circuitlab.evaluation.nodes import NodeCircuitRunner
from circuitlab.execute.edge_runs import WindowedRunner
from circuitlab.methods import method_classes
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.decoder.paths import Change, edited_rows
from circuitlab.model.places import Places
from circuitlab.model.sites import Site
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.testing.tiny import shared_tiny_model, tiny_batch, tiny_hf, tiny_model
from reference.standing import EditedModel, Scaled

FACTOR, LAYER = 0.3, 1
METRIC = LogitDiff()
CLOSE = {"atol": 3e-5, "rtol": 1e-4}
RUNS = {
    "heads": ("activation_patching", {"parts": ("heads", "attns", "mlps", "resid_pre", "resid_post")}),
    "noising": ("activation_patching", {"parts": ("heads", "mlps"), "direction": "noising", "positions": ("CHANGE", "END")}),
    "q": ("activation_patching", {"parts": ("heads",), "site": "q"}),
    "v": ("activation_patching", {"parts": ("heads",), "site": "v"}),
    "attribution": ("attribution_patching", {"parts": ("heads", "attns", "mlps", "resid_pre", "resid_post")}),
    "attribution_k": ("attribution_patching", {"parts": ("heads",), "site": "k", "direction": "noising"}),
    "atp_star": ("atp_star", {}),
    "atp_star_none": ("atp_star", {"reduce": "none"}),
    "relp": ("relp", {}),
    "eap": ("eap", {}),
    "eap_ig": ("eap_ig", {"steps": 2}),
    "eap_ig_activations": ("eap_ig", {"steps": 2, "variant": "activations"}),
    "paths": ("path_patching", {"senders": ("heads", "mlps", "embed")}),
    "paths_to_q": ("path_patching", {"senders": ("heads", "embed"), "receivers": ("a1.h0<q>", "a1.h1<q>", "a2.h1<q>")}),
    "paths_via_q": ("path_patching", {"senders": ("heads", "mlps", "embed"), "receivers": ("a2.h1<q>",), "via": ("a1.h1<q>",)}),
    "paths_via_kv": ("path_patching", {"senders": ("heads", "embed"), "receivers": ("m2",), "via": ("a1.kv0<v>",)}),
    "paths_to_mlp": ("path_patching", {"senders": ("heads", "embed"), "receivers": ("m1",)}),
    "paths_via_mlp": ("path_patching", {"senders": ("heads",), "receivers": ("logits",), "via": ("m1",)}),
    "direct": ("logit_attribution", {"run": "contrast"}),
}
ON_STREAM = ("heads", "noising", "q", "v", "attribution", "attribution_k", "atp_star_none", "relp")
"""What follows edits of the stream itself."""


@torch.no_grad()
def changed(site: Site, head: int | None):
    """A tiny Llama whose weights scale a site of a layer (a head of it, where one is named)."""
    hf = tiny_hf("llama")
    layer, width = hf.model.layers[LAYER], hf.config.head_dim
    own = slice(None) if head is None else slice(head * width, (head + 1) * width)
    attention = layer.self_attn
    if site in {Site.Z, Site.PATTERN}:  # z is linear in the pattern
        attention.o_proj.weight[:, own] *= FACTOR
    elif site is Site.MLP_OUT:
        layer.mlp.down_proj.weight *= FACTOR
    elif site is Site.ATTN_OUT:
        attention.o_proj.weight *= FACTOR
    elif site is Site.RESID_PRE:
        hf.model.embed_tokens.weight *= FACTOR
    else:
        {Site.Q: attention.q_proj, Site.K: attention.k_proj, Site.V: attention.v_proj}[site].weight[own] *= FACTOR
    return load_model(hf)


EDITS = [(Site.Z, 1), (Site.PATTERN, 1), (Site.Q, 1), (Site.K, 0), (Site.V, 0), (Site.MLP_OUT, None)]


@pytest.fixture(scope="module", params=EDITS, ids=[site.value for site, _ in EDITS])
def pair(request):
    """An edited model, and one with other weights that does the same."""
    site, head = request.param
    return EditedModel(load_model(tiny_hf("llama")), Scaled(site, LAYER, FACTOR, head=head)), changed(site, head)


def arrays(name, model, batch):
    method, params = RUNS[name]
    return method_classes()[method](**params)(model, batch, METRIC).dataset


@pytest.mark.some(name=1, pair=3)
@pytest.mark.parametrize("name", RUNS)
def test_a_method_runs_on_an_edited_model(pair, name) -> None:
    edited, other = pair
    batch = tiny_batch(other, 3, unequal=True)
    found, expected, plain = (arrays(name, model, batch) for model in (edited, other, edited.model))
    for part in expected.data_vars:
        np.testing.assert_allclose(found[part].values, expected[part].values, **CLOSE, err_msg=part)
    assert not np.allclose(found["clean"].values, plain["clean"].values, atol=1e-4)


@pytest.mark.some(ablation=3, pair=1)
@pytest.mark.parametrize("ablation", ["resample", "zero", "mean"])
def test_circuits_run_on_an_edited_model(pair, ablation) -> None:
    edited, other = pair
    batch, rng = tiny_batch(other, 3, unequal=True), np.random.default_rng(0)
    for runs in (EdgeCircuitRunner, NodeCircuitRunner):
        here, there = (runs(model, batch, METRIC, ablation=ablation) for model in (edited, other))
        n = len(here.elements)
        masks = np.stack([np.ones(n, bool), np.zeros(n, bool), rng.random(n) < 0.5, rng.random(n) < 0.9])
        np.testing.assert_allclose(here.run(masks), there.run(masks), **CLOSE)


@pytest.mark.some(site=6)
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("site", [Site.RESID_PRE, Site.ATTN_OUT])
def test_edits_of_the_stream_are_followed_or_refused(name, site) -> None:
    standing = Scaled(site, 0 if site is Site.RESID_PRE else LAYER, FACTOR)
    edited, other = EditedModel(load_model(tiny_hf("llama")), standing), changed(site, None)
    batch = tiny_batch(other, 3, unequal=True)
    follows = name in ON_STREAM or (site is Site.ATTN_OUT and name == "atp_star")
    if not follows:
        with pytest.raises(ModelError, match=f"edit of {site.value} in layer"):
            arrays(name, edited, batch)
        return
    found, expected = arrays(name, edited, batch), arrays(name, other, batch)
    for part in ("heads", "kv_heads", "mlps", "clean", "corrupt"):
        if part in expected:
            np.testing.assert_allclose(found[part].values, expected[part].values, **CLOSE, err_msg=part)


def test_what_no_rule_covers_is_refused_by_name() -> None:
    model = load_model(tiny_hf("llama"))
    batch = tiny_batch(model, 2)
    edited = EditedModel(model, Scaled(Site.Z, LAYER, FACTOR))
    with pytest.raises(ModelError, match="Contextual decomposition"):
        method_classes()["contextual_decomposition"]()(edited, batch, METRIC)
    edited = EditedModel(model, Scaled(Site.PATTERN, LAYER, FACTOR))
    with pytest.raises(ModelError, match="QK fix"):
        method_classes()["atp_star"](parts=("heads",), site="q")(edited, batch, METRIC)
    runs = EdgeCircuitRunner(EditedModel(model, Scaled(Site.RESID_POST, LAYER, FACTOR)), batch, METRIC)
    with pytest.raises(ModelError, match="sum of what"):
        runs.run(np.zeros((1, len(runs.elements)), bool))


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen3", "gemma2"])
@pytest.mark.parametrize("mark", ["CHANGE", "END"])
def test_the_whole_circuit_of_edges_is_the_edited_run(family, mark) -> None:
    model = shared_tiny_model(family)
    batch = tiny_batch(model, 3, unequal=True)
    for site in (Site.Q, Site.K, Site.V, Site.PATTERN, Site.Z, Site.MLP_OUT):
        edited = EditedModel(model, Scaled(site, LAYER, FACTOR, mark, half=True))
        runs, layout = WindowedRunner.of(edited, METRIC, batch), EdgeLayout.of(model.spec)
        clean, corrupt = (runs.plain(tokens).trace for tokens in (batch.clean, batch.corrupt))
        layers = corrupt.layers
        writes = AblatedWrites.of(runs.decoder.blocks, corrupt.embed, [one.z for one in layers], [one.mlp_out for one in layers])
        every = torch.from_numpy(layout.mask[None]).float()
        found = forward(runs, layout, writes, clean.embed, [(every, None)])[0]
        expected = clean.final[torch.arange(3), batch.end - runs.start]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_rows_are_edited_where_they_stand() -> None:
    model = tiny_model("llama")
    batch = tiny_batch(model, 3, unequal=True)
    places = Places.of(batch)
    for site in (Site.MLP_OUT, Site.Q):
        edited = EditedModel(model, Scaled(site, LAYER, FACTOR, "CHANGE", half=True))
        run = edited.decoder.traced_in(places)
        pair, pos = torch.ones(batch.clean.shape).nonzero(as_tuple=True)
        rows = Change(pair, pair, pos, torch.zeros(len(pair), 1))
        raw = edited.model.decoder.traced_in(places)
        before, after = (getattr(one.layers[LAYER], site.value)[pair, pos] for one in (raw, run))
        assert torch.equal(edited_rows(edited.decoder, run, (site, LAYER), rows, before), after)
        assert not torch.equal(before, after)
