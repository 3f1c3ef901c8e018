"""Contextual decomposition: every activation stays whole, sources are what they say, and rules do what their names promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.methods.contextual_decomposition import ContextualDecomposition
from circuitlab.methods.decomposition import RULES, Options, Rule, Source
from circuitlab.methods.decomposition.relevance import relevance_to_metric
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.testing.method_laws import FAMILIES, check_method
from circuitlab.testing.tiny import tiny_batch, tiny_hf, tiny_model

METRIC = LogitDiff()
ODD = Rule(activation="shapley", product="shapley", gate="shapley", softmax="shapley", signs="clipped")
SOURCES = (
    Source(("embed",), at=(3,)),
    Source(("embed", "a1.h2", "m2"), at=("CHANGE", "END")),
    Source(("a0.kv1",)),
    Source(("a0.h2", "a1.h0")),
    Source(("m0",), at=("END",)),
    Source(("a1.kv0",), at=(4, 5)),
    Source(("a2.h3",)),
    Source(("m2",)),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_law_holds(family: str) -> None:
    assert len(check_method(ContextualDecomposition(), families=(family,))) > 8


@pytest.mark.parametrize("rule", [*RULES.values(), ODD], ids=[*RULES, "odd"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_sum_to_the_activation_in_every_layer(family: str, rule: Rule) -> None:
    model = load_model(tiny_hf(family, dtype=torch.float64))
    batch = tiny_batch(model, 2, unequal=True)
    for baseline in ("corrupt", "mean", "zero"):
        found = relevance_to_metric(model, batch, METRIC, SOURCES, Options(rule, baseline))
        assert np.abs(found.values).max() > 1e-3
        assert not np.isnan(found.invariant.layers).any()
        assert found.invariant.error < (1e-9 if rule.keeps_sums else 1e-3)
        assert found.invariant.difference < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_sum_to_the_activation_in_float32(family: str) -> None:
    model = tiny_model(family)
    scores = ContextualDecomposition(parts=("heads", "kv_heads", "mlps", "embed"))(model, tiny_batch(model, 2), METRIC)
    assert 0 < scores.provenance.measured["invariant_error"] < 1e-4


def test_the_invariant_can_fail() -> None:
    """The published bias split loses bias where both parts are tiny."""
    hf = tiny_hf("gpt2", dtype=torch.float64)
    hf.transformer.h[1].ln_2.weight.data.mul_(1e-7)
    hf.transformer.h[1].ln_2.bias.data.zero_()
    model = load_model(hf)
    batch = tiny_batch(model, 2)
    exact, published = (relevance_to_metric(model, batch, METRIC, SOURCES[3:4], Options(RULES[name])) for name in ("exact", "published"))
    assert exact.invariant.error < 1e-9
    assert published.invariant.error > 1e-4
