"""The area under the ROC curve is the chance that a true element ranks above a false one."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.circuits import Circuit
from circuitlab.circuits.roc import roc_against, roc_of_edges, roc_of_values
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Head, Universe, parse_edge
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.testing.fakes import fake_provenance, fake_scores


def by_pairs(values, truth):
    above = values[truth][:, None] - values[~truth][None]
    return ((above > 0) + 0.5 * (above == 0)).mean()


@pytest.mark.parametrize("seed", range(5))
def test_area_equals_the_count_over_all_pairs(seed):
    rng = np.random.default_rng(seed)
    values, truth = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    found = roc_of_values(values, truth)
    assert found.auroc == pytest.approx(by_pairs(values, truth))
    assert (found.n_in, found.n_out) == (truth.sum(), (~truth).sum())
    assert (found.false_positive[[0, -1]] == [0, 1]).all() and (found.true_positive[[0, -1]] == [0, 1]).all()


def test_perfect_reversed_and_useless_scores():
    truth = np.array([True, True, False, False, False])
    assert roc_of_values(truth.astype(float), truth).auroc == 1
    assert roc_of_values(-truth.astype(float), truth).auroc == 0
    assert roc_of_values(np.zeros(5), truth).auroc == 0.5


def test_against_a_circuit_of_heads():
    mean = np.array([[0.1, -5.0, 0.2], [2.0, 0.0, 0.3]])
    scores = fake_scores(np.broadcast_to(mean, (4, 2, 3)))
    universe = scores.universe
    truth = Circuit(frozenset({Head(0, 1), Head(1, 0)}), universe)
    assert roc_against(scores, truth).auroc == 1
    assert roc_against(scores, truth, by="positive").auroc == pytest.approx(by_pairs(mean.ravel(), np.array([0, 1, 0, 1, 0, 0], bool)))
    with pytest.raises(IncompatibleError, match="cannot be compared with"):
        roc_against(scores, Circuit(frozenset(), Universe(2, 3, 3)))
    with pytest.raises(BadParameterError, match="does not exist"):
        roc_against(scores, Circuit(frozenset(), universe))


def test_against_a_circuit_of_edges():
    provenance = fake_provenance(2, 2)
    layout = EdgeLayout.of(provenance.model)
    edges = np.random.default_rng(0).normal(size=(3, *layout.shape)) * 0.1 * layout.mask
    wanted = ["embed->a0.h0<q>", "a0.h1->a1.kv0<v>", "m0->logits"]
    for name in wanted:
        edges[:, *layout.index(name)] = -3
    scores = EdgeScores.build({"edges": edges, **dict.fromkeys(("total", "clean", "corrupt"), np.zeros(3))}, provenance)
    universe = Universe(2, 2, 1)
    truth = Circuit(frozenset(), universe, frozenset(map(parse_edge, wanted)))
    assert roc_of_edges(scores, truth).auroc == 1
    assert roc_of_edges(scores, truth, by="positive").auroc == 0
    with pytest.raises(BadParameterError, match="nodes alone"):
        roc_of_edges(scores, Circuit(frozenset(), universe))
