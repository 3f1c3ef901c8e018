"""docs/circuits.md says of selection rules what they do: what it calls an option is one, and what it calls the default is the default."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import circuitlab.circuits as rules
from circuitlab.circuits import GreedyEdges, TopEdges, pruned_edges
from circuitlab.core.nodes import Universe
from circuitlab.scores.edge_layout import EdgeLayout
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.testing.fakes import fake_provenance

PAGE = (Path(__file__).parents[2] / "docs/circuits.md").read_text(encoding="utf-8")
CALLS = sorted(set(re.findall(r"`([A-Z]\w+\([^`]*\))`", PAGE)))


def options(call: str) -> tuple[type, list[str], dict[str, object]]:
    """A rule as the page writes it: its class, the names of what is left open, and the options that are given a value."""
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    return (
        getattr(rules, ast.unparse(node.func)),
        list(map(ast.unparse, node.args)),
        {k.arg: ast.literal_eval(k.value) for k in node.keywords},
    )


@pytest.mark.parametrize("call", CALLS)
def test_a_rule_has_the_parameters_that_the_page_gives_it(call) -> None:
    rule, left_open, given = options(call)
    parameters = inspect.signature(rule).parameters
    assert list(parameters)[: len(left_open)] == left_open
    for name, value in given.items():
        assert parameters[name].default != value, f"the page presents {name}={value} as something that has to be asked for"


def edge_scores() -> EdgeScores:
    """Random scores of the edges of 3 layers with 4 heads."""
    about = fake_provenance(3, 4)
    layout = EdgeLayout.of(about.model)
    mean = np.random.default_rng(0).normal(size=layout.shape) * layout.mask
    per_pair = dict.fromkeys(("total", "clean", "corrupt"), np.ones(2))
    return EdgeScores.build({"edges": np.broadcast_to(mean, (2, *layout.shape)), **per_pair}, about)


def test_edges_are_pruned_where_the_page_says_so() -> None:
    scores, k = edge_scores(), 12
    space = Universe(3, 4, scores.provenance.model.n_kv_heads)
    top, pruned, greedy = (rule(scores).edges for rule in (TopEdges(k), TopEdges(k, prune=True), GreedyEdges(k)))
    assert len(top) == k
    assert pruned_edges(top, space) == pruned != top
    assert pruned_edges(greedy, space) == greedy
    said = PAGE[PAGE.index("`TopEdges(k)`") :]
    plain, with_option, grown = re.split(r"`TopEdges\(k, prune=True\)`|`GreedyEdges\(k\)`", said[: said.index("\n\n")])
    assert "wherever they lie" in plain
    assert ["drops" in text or "prunes" in text for text in (plain, with_option, grown)] == [False, True, True]
