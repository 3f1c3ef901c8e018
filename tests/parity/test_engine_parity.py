"""The exact engine equals whole forward passes with hooks: every family, site, position, direction; unequal lengths; sets of nodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_patching_parity import assert_parity
from tolerances import TINY_FLOAT32

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.metrics import LogitDiff, LogProb
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.engine import CommonPrefix, Engine
from circuitlab.model.engine.by_hooks import sweep_by_hooks
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.testing.tiny import FAMILIES, shared_tiny_model, tiny_batch, tiny_model

METRIC = LogitDiff()
PARTS = ("heads", "attns", "mlps", "resid_pre", "resid_mid", "resid_post")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return shared_tiny_model(request.param)


def both(model, batch, metric=METRIC, **params):
    return [ActivationPatching(engine=engine, pairs_per_pass=3, **params)(model, batch, metric) for engine in ("exact", "hooks")]


def late_batch(model) -> ContrastBatch:
    """Pairs of 9 to 11 tokens that differ from position 5, 6 or 7 on, and one pair of equal prompts."""
    rows = tiny_batch(model, 4, seed=5)
    clean = [[*row, *row[: i % 3]] for i, row in enumerate(rows.clean.tolist())]
    corrupt = [list(row) for row in clean]
    corrupt[3][-1] = (corrupt[3][-1] + 1) % model.spec.d_vocab
    for i in range(3):
        corrupt[i][5 + i : 7 + i] = [(token + 7) % model.spec.d_vocab for token in clean[i][5 + i : 7 + i]]
    answers, foils = rows.answers[:, 0].tolist(), rows.foils[:, 0].tolist()
    batch = ContrastBatch.from_tokens(clean, corrupt, answers, foils, marks={"CHANGE": [5, 6, 7, 8]})
    return replace(batch, corrupt=torch.cat([batch.corrupt[:3], batch.clean[3:]]))  # equal prompts are refused where a batch is made


def agree(fast, slow) -> None:
    assert fast.parts == slow.parts
    for part in fast.parts:
        assert_parity(fast.dataset[part].values, slow.dataset[part].values, TINY_FLOAT32)


@pytest.mark.laws
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_every_part(model, direction) -> None:
    parts = tuple(part for part in PARTS if part != "resid_mid" or not model.spec.parallel)
    agree(*both(model, tiny_batch(model, 4, unequal=True), parts=parts, direction=direction))


@pytest.mark.some(model=2, site=3)
@pytest.mark.parametrize("site", ["q", "k", "v", "pattern"])
def test_inside_heads(model, site) -> None:
    fast, slow = both(model, tiny_batch(model, 4, unequal=True), parts=("heads",), site=site)
    assert fast.parts == (("kv_heads",) if site in {"k", "v"} else ("heads",))
    agree(fast, slow)


@pytest.mark.some(model=1, site=2)
@pytest.mark.parametrize("site", ["z", "q", "k", "v", "pattern"])
def test_by_mark_and_by_position(model, site) -> None:
    agree(*both(model, tiny_batch(model, 4, unequal=True), parts=("heads", "mlps"), site=site, positions=("CHANGE", "END")))
    fast, slow = both(model, tiny_batch(model, 3), parts=("heads", "resid_pre"), site=site, positions=("each",))
    agree(fast, slow)
    assert fast.marks == tuple(map(str, range(9)))
    assert (fast.dataset["resid_pre"].values[:, :2] == 0).all(), "nothing differs before position 2: exactly zero"


@pytest.mark.some(model=1, site=3)
@pytest.mark.parametrize("site", ["z", "k", "pattern"])
def test_prompts_that_share_their_beginning(monkeypatch, model, site) -> None:
    monkeypatch.setattr("circuitlab.execute.sweeps._FEWEST", 0)
    batch = late_batch(model)
    for direction in ("denoising", "noising"):
        fast, slow = both(model, batch, parts=("heads", "mlps", "resid_pre"), site=site, direction=direction)
        agree(fast, slow)
        assert all((fast.dataset[part].values[3] == 0).all() for part in fast.parts), "equal prompts: exactly zero"
    agree(*both(model, batch, parts=("heads",), site=site, positions=("CHANGE", "END")))


def test_a_run_that_starts_from_another_is_the_whole_run(model) -> None:
    batch, engine = late_batch(model), Engine(model.decoder)
    sites = [Site.Z, Site.K, Site.PATTERN, Site.MLP_OUT]
    clean, whole = (engine.base_run(tokens, batch.end, sites) for tokens in (batch.clean, batch.corrupt))
    found = engine.base_run(batch.corrupt, batch.end, sites, shared=CommonPrefix(clean, batch.first_difference(), 5))
    real = batch.mask
    for mine, full, before in (
        *zip(found.entering, whole.entering, clean.entering, strict=True),
        *zip(found.keys, whole.keys, clean.keys, strict=True),
        *zip(found.values, whole.values, clean.values, strict=True),
        *((found.sites[site][-1], whole.sites[site][-1], clean.sites[site][-1]) for site in (Site.Z, Site.K, Site.MLP_OUT)),
    ):
        assert_parity(mine[real].numpy(), full[real].numpy(), TINY_FLOAT32)
        assert torch.equal(mine[:, :5], before[:, :5]), "taken from the other run"
        assert not torch.equal(mine[:, 5:], before[:, 5:])
    for mine, full in zip(found.sites[Site.PATTERN], whole.sites[Site.PATTERN], strict=True):
        assert_parity(mine.transpose(1, 2)[real].numpy(), full.transpose(1, 2)[real].numpy(), TINY_FLOAT32)


def test_a_metric_over_the_whole_vocabulary() -> None:
    llama = tiny_model("llama")
    agree(*both(llama, tiny_batch(llama, 3), LogProb()))


def test_sets_of_nodes_in_several_layers(model) -> None:
    batch = tiny_batch(model, 3, seed=4)
    values = model.capture(batch.clean, [Site.Z, Site.MLP_OUT])
    sets = []
    for heads in ([(0, 1), (2, 3)], [(0, 0), (0, 2), (1, 1)], [(2, 0)]):
        edits = [Edit(Site.Z, layer, values[Site.Z][:, layer, :, head], head=head) for layer, head in heads]
        sets.append(EditSet((*edits, Edit(Site.MLP_OUT, 1, values[Site.MLP_OUT][:, 1]))))
    fast = model.sweep(batch.corrupt, batch.end, sets)
    slow = sweep_by_hooks(model, batch.corrupt, batch.end, sets)
    assert_parity(fast.numpy(), slow.numpy(), TINY_FLOAT32)
    assert (slow - model.logits(batch.corrupt, batch.end)).abs().max() > 0.1


def test_order_and_chunks_change_nothing() -> None:
    llama = tiny_model("llama")
    batch = tiny_batch(llama, 3)
    values = llama.capture(batch.clean, [Site.Z])[Site.Z]
    sweep = [EditSet((Edit(Site.Z, layer, values[:, layer, :, head], head=head),)) for layer in (2, 0, 1) for head in range(4)]
    whole = llama.sweep(batch.corrupt, batch.end, sweep)
    assert_parity(llama.sweep(batch.corrupt, batch.end, sweep[::-1]).flip(0).numpy(), whole.numpy(), TINY_FLOAT32)
    one_by_one = torch.cat([llama.sweep(batch.corrupt, batch.end, [one]) for one in sweep])
    assert_parity(one_by_one.numpy(), whole.numpy(), TINY_FLOAT32)
    ids = torch.tensor([3, 40])
    assert_parity(llama.sweep(batch.corrupt, batch.end, sweep, ids).numpy(), whole[..., ids].numpy(), TINY_FLOAT32)


@pytest.mark.some(model=2, site=2, early=5)
@pytest.mark.parametrize("site", ["z", "q", "k", "v", "pattern"])
@pytest.mark.parametrize("early", [True, False])
def test_differences_in_bfloat16_are_close_and_their_error_is_measured(monkeypatch, model, site, early) -> None:
    monkeypatch.setattr("circuitlab.execute.sweeps._FEWEST", 0)
    batch = tiny_batch(model, 4, unequal=True) if early else late_batch(model)
    runs = [ActivationPatching(parts=("heads",), site=site, precision=how) for how in ("full", "bf16_difference")]
    exact, rounded = (run(model, batch, METRIC) for run in runs)
    (part,) = exact.parts
    error = np.abs(rounded.values(part) - exact.values(part))
    assert 0 < error.max() < 0.05 * np.abs(exact.values(part)).max()
    measured = rounded.provenance.measured
    assert error.max() / 10 < measured["precision_error_max"] < error.max() * 3, "a sample's largest error is near the largest"
    assert exact.provenance.run_id() != rounded.provenance.run_id()


def test_values_that_equal_the_base_run_are_not_run() -> None:
    llama = tiny_model("llama")
    batch = tiny_batch(llama, 3)
    engine = Engine(llama.decoder)
    base = engine.base_run(batch.corrupt, batch.end, [Site.Z])
    same = [EditSet((Edit(Site.Z, layer, base.sites[Site.Z][layer][:, :, 1], head=1),)) for layer in range(3)]
    assert torch.equal(engine.sweep(base, same), base.final.expand(3, -1, -1))


@pytest.mark.parametrize("family", FAMILIES)
def test_misuse_is_refused(family) -> None:
    model = shared_tiny_model(family)
    batch = tiny_batch(model, 2)
    value = torch.zeros(2, model.spec.d_head)
    for edits, said in [
        ((), "without edits"),
        ((Edit(Site.Z, 7, value, head=0, positions=batch.end),), "Layer 7 does not exist"),
        ((Edit(Site.Z, 0, value, head=4, positions=batch.end),), "Head 4 does not exist"),
        ((Edit(Site.K, 0, value, head=model.spec.n_kv_heads, positions=batch.end),), "does not exist at 'k'"),
        ((Edit(Site.Z, 0, value, head=0, positions=batch.end + 1),), "outside prompts of 9 tokens"),
        ((Edit(Site.Z, 0, value[:, :3], head=0, positions=batch.end),), "is needed"),
        ((Edit(Site.Z, 0, value, head=0, positions=batch.end - 7),), "before its start"),
    ]:
        with pytest.raises(BadParameterError, match=said):
            model.sweep(batch.clean, batch.end, [EditSet(edits, 4)])
    if model.spec.parallel:
        with pytest.raises(ModelError, match="no site 'resid_mid'"):
            model.sweep(batch.clean, batch.end, [EditSet((Edit(Site.RESID_MID, 0, torch.zeros(2, 9, 32)),))])


def test_a_model_that_cannot_be_taken_apart_is_served_by_hooks_which_says_so(monkeypatch) -> None:
    llama = tiny_model("llama")
    batch = tiny_batch(llama, 2)
    expected = ActivationPatching(engine="hooks")(llama, batch, METRIC)
    monkeypatch.setattr("circuitlab.model.decoder.build.TOLERANCE", {torch.float32: -1.0})
    with pytest.warns(UserWarning, match="Falling back to hooks.*away from the model"):
        found = ActivationPatching()(llama, batch, METRIC)
    agree(found, expected)


def test_the_check_can_fail() -> None:
    llama = tiny_model("llama")
    batch = tiny_batch(llama, 3)
    fast, _ = both(llama, batch)
    other = ActivationPatching(direction="noising")(llama, batch, METRIC)
    with pytest.raises(AssertionError):
        agree(fast, other)
    late = batch.first_difference().min() + 1  # an engine that starts one position too late
    edit = Edit(Site.RESID_PRE, 0, llama.capture(batch.clean, [Site.RESID_PRE])[Site.RESID_PRE][:, 0])
    right, wrong = (llama.sweep(batch.corrupt, batch.end, [EditSet((edit,), int(start))]) for start in (late - 1, late))
    with pytest.raises(AssertionError):
        assert_parity(wrong.numpy(), right.numpy(), TINY_FLOAT32)
