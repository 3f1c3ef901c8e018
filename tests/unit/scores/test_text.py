"""What scores and circuits say about themselves."""

from __future__ import annotations

import numpy as np

from circuitlab import top_heads
from circuitlab.circuits import TopK
from circuitlab.testing.fakes import fake_scores


def test_scores_say_where_they_come_from_and_name_the_strongest_head() -> None:
    values = np.zeros((6, 3, 4))
    values[:, 2, 1] = 5 + np.arange(6)
    said = repr(fake_scores(values, task="ioi"))
    assert "ioi" in said
    assert "6 pairs" in said
    assert "positive helps" in said
    assert "strongest heads: a2.h1 +7.5 [" in said
    assert "NOT READY" not in said


def test_scores_of_a_task_the_model_cannot_do_say_so() -> None:
    assert "NOT READY: " in repr(fake_scores(np.ones((3, 2, 2)), ready=False))


def test_a_circuit_names_its_nodes_its_rule_and_what_is_left_out() -> None:
    values = np.random.default_rng(0).normal(size=(5, 4, 4))
    scores = fake_scores(values, ready=False)
    small, large = repr(top_heads(scores, 2)), repr(top_heads(scores, 14))
    assert small.startswith("Circuit of 2 nodes, top 2 ")
    assert "NOT READY" in small
    assert "... 2 more" in large
    assert top_heads(scores, 3, by="positive") == TopK(3, by="positive")(scores)
