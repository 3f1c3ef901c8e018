"""Planted models do their task, by the nodes, edges and positions that they claim and by no others."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Head, Mlp
from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.methods.path_patching import PathPatching
from circuitlab.metrics import LogitDiff, correct
from circuitlab.model.sites import Edit, Site
from circuitlab.model.toy import CIRCUITS, build_planted, planted_model, planted_models, planted_names
from circuitlab.model.toy.wiring import WIDTH, Wiring
from circuitlab.scores.edge_layout import EdgeLayout

METRIC = LogitDiff()
NAMES = planted_names()
VISIBLE = [name for name in NAMES if not name.startswith("backup")]
planted_of = functools.cache(build_planted)


def difference(planted, batch, tokens) -> float:
    return float(METRIC(planted.model.logits(tokens, batch.end), batch).mean())


def every_node(planted) -> set:
    spec = planted.model.spec
    heads = {Head(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_heads)}
    return heads | {Mlp(layer) for layer in range(spec.n_layers)}


def with_nodes(planted, batch, nodes, source=None) -> float:
    """Mean logit difference of the clean prompts with the outputs of nodes set to 0, or taken from another run."""
    held = planted.model.capture(batch.clean if source is None else source, [Site.Z, Site.MLP_OUT])
    edits = []
    for node in sorted(nodes):
        if isinstance(node, Head):
            edits.append(Edit(Site.Z, node.layer, held[Site.Z][:, node.layer, :, node.head] * (source is not None), head=node.head))
        else:
            edits.append(Edit(Site.MLP_OUT, node.layer, held[Site.MLP_OUT][:, node.layer] * (source is not None)))
    return float(METRIC(planted.model.with_edits(edits).logits(batch.clean, batch.end), batch).mean())


@pytest.mark.parametrize("name", NAMES)
def test_it_does_its_task(name) -> None:
    planted = planted_of(name)
    batch = planted.batch(24, seed=3)
    logits = planted.model.logits(batch.clean, batch.end)
    assert all(correct(logits, batch)), "an answer beats every other candidate on every pair"
    clean, corrupt = (METRIC(planted.model.logits(tokens, batch.end), batch) for tokens in (batch.clean, batch.corrupt))
    assert float(clean.min()) > 0.5
    assert float((corrupt / clean).max()) < 0.25, "the corrupt prompt does not give the answer"


@pytest.mark.parametrize("name", NAMES)
def test_the_true_nodes_do_it_and_no_others(name) -> None:
    planted = planted_of(name)
    batch = planted.batch(12)
    whole = difference(planted, batch, batch.clean)
    others = every_node(planted) - planted.nodes
    silenced = with_nodes(planted, batch, others)
    assert silenced > 0.88 * whole
    if planted.circuit != "distractor":  # without the loud head the final norm makes everything larger
        assert silenced < 1.12 * whole
    assert abs(with_nodes(planted, batch, planted.nodes)) < 0.1 * whole
    assert with_nodes(planted, batch, others, batch.corrupt) == pytest.approx(whole, rel=0.12)
    assert with_nodes(planted, batch, planted.nodes, batch.corrupt) < 0.25 * whole


@pytest.mark.parametrize("name", VISIBLE)
def test_each_true_node_matters_alone(name) -> None:
    planted = planted_of(name)
    batch = planted.batch(12)
    whole = difference(planted, batch, batch.clean)
    for node in planted.helpers:
        assert with_nodes(planted, batch, {node}, batch.corrupt) < 0.5 * whole
    for node in planted.hinderers:
        assert with_nodes(planted, batch, {node}, batch.corrupt) > 1.1 * whole
    for node in every_node(planted) - planted.nodes:
        assert with_nodes(planted, batch, {node}, batch.corrupt) == pytest.approx(whole, rel=0.06)


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_two_heads_back_each_other_up(form) -> None:
    planted = planted_of(f"backup-{form}")
    batch = planted.batch(12)
    whole = difference(planted, batch, batch.clean)
    first, second, mover = Head(0, 0), Head(0, 2), Head(0, 3)
    for source in (None, batch.corrupt):
        assert with_nodes(planted, batch, {first}, source) == pytest.approx(whole, rel=0.03)
        assert with_nodes(planted, batch, {second}, source) == pytest.approx(whole, rel=0.03)
        assert abs(with_nodes(planted, batch, {first, second}, source)) < 0.05 * whole
        assert abs(with_nodes(planted, batch, {mover}, source)) < 0.05 * whole
    assert not planted.visible
    assert planted.reason.endswith(".")


@pytest.mark.some(4)
@pytest.mark.parametrize("name", VISIBLE)
def test_the_true_edges_carry_the_difference_and_no_others(name) -> None:
    """Every typed edge of the model is patched alone, with the MLPs beside it frozen."""
    planted = planted_of(name)
    batch = planted.batch(4)
    layout = EdgeLayout.of(planted.model.spec)
    effects = np.zeros(layout.shape)
    for place, receiver in enumerate(layout.receiver_names):
        scores = PathPatching(senders=("heads", "mlps", "embed"), receivers=(receiver,), mlps="frozen")(planted.model, batch, METRIC)
        gap = float(scores.dataset["total"].values.mean())
        heads, mlps = scores.mean("heads"), scores.mean("mlps")
        column = np.concatenate([[scores.mean("embed")], np.concatenate([heads, mlps[:, None]], axis=1).reshape(-1)])
        effects[:, place] = np.abs(column) / gap
    found = {layout.edge(int(i), int(j)) for i, j in np.argwhere(effects > 0.1)}
    assert found == planted.edges


@pytest.mark.parametrize("name", VISIBLE)
def test_true_nodes_act_at_their_positions(name) -> None:
    planted = planted_of(name)
    batch = planted.batch(12)
    marks = tuple(batch.marks)
    scores = ActivationPatching(positions=marks)(planted.model, batch, METRIC)
    gap = float(scores.dataset["total"].values.mean())
    for node, own in planted.positions.items():
        assert set(own) <= set(marks)
        part, place = ("heads", (node.layer, node.head)) if isinstance(node, Head) else ("mlps", (node.layer,))
        for mark in marks:
            effect = abs(float(scores.mean(part, mark=mark)[place]))
            assert effect > 0.1 * gap if mark in own else effect < 0.05 * gap
    assert set(planted.positions) == planted.nodes


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("copy", "distractor", "shared"))])
def test_distractors_attend_like_the_true_heads(name) -> None:
    planted = planted_of(name)
    batch = planted.batch(6)
    pattern = planted.model.capture(batch.clean, [Site.PATTERN], at=batch.end)[Site.PATTERN]
    for head in planted.distractors | planted.nodes:
        assert float(pattern[range(6), head.layer, head.head, batch.mark("CONTENT")].min()) > 0.9
    assert not planted.distractors & planted.nodes


@pytest.mark.parametrize("name", NAMES)
def test_form_and_shapes(name) -> None:
    planted = planted_of(name)
    spec = planted.model.spec
    expected = ("llama", "rms", 2) if planted.form == "gqa" else ("gpt2", "layer", 4)
    assert (spec.family, spec.norm, spec.n_kv_heads) == expected
    assert (planted.name, spec.name) == (name, name)
    assert spec.n_heads == 4
    layout = EdgeLayout.of(spec)
    for edge in planted.edges:
        layout.index(edge)


def test_every_circuit_has_both_forms_where_it_can() -> None:
    assert len(NAMES) == 15
    assert [name for name, (_, forms) in CIRCUITS.items() if len(forms) < 2] == ["shared_group"]


@pytest.mark.parametrize("name", ["names-gqa", "names-mha"])
def test_models_and_prompts_are_deterministic(name) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again = build_planted(name), build_planted(name)
    assert torch.equal(state, torch.get_rng_state()), "the global random state is left alone"
    assert first.model.spec.weights == again.model.spec.weights
    assert first.batch(5, seed=2).task.digest == again.batch(5, seed=2).task.digest != first.batch(5, seed=3).task.digest
    assert torch.equal(first.batch(8).clean[:5], first.batch(5).clean)


def test_the_model_of_the_laws_is_dead_outside_its_circuit() -> None:
    planted = planted_model()
    scores = ActivationPatching()(planted.model, planted.batch(), METRIC)
    true = {(head.layer, head.head) for head in planted.nodes}
    alive = {tuple(map(int, place)) for place in np.argwhere(np.abs(scores.mean("heads")) > 1e-5)}
    assert alive == true == {(1, 1), (1, 2)}
    assert np.abs(scores.mean("mlps")).max() < 1e-6


def test_names_are_checked() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'induction-gqa'"):
        build_planted("inductoin-gqa")
    assert next(planted_models()).name == NAMES[0]


def test_a_stream_holds_only_so_many_features() -> None:
    wiring = Wiring("gqa", 1, 2)
    assert list(wiring.block(2)) == [1, 2]
    with pytest.raises(BadParameterError, match=f"stream of {WIDTH}"):
        wiring.block(WIDTH)
