"""Selection of passages on a model that reads topics, and on one that reads none, where labels mean nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError
from circuitlab.experiments.data_selection import DataSelection
from circuitlab.experiments.data_selection.kinds import TASKS, passages, split
from circuitlab.experiments.data_selection.selection import context_gain
from circuitlab.experiments.data_selection.steps import measured
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache
from circuitlab.texts import list_kinds

TOPICS, WORDS, EACH, LENGTH = 8, 60, 8, 9
BLANK = TOPICS * WORDS
SETTINGS = DataSelection(examples=2, shown=2, random_draws=3, units=24, active=2, epochs=300)


def model(*, reads: bool = True):
    """a1.h1 looks back at all tokens evenly, and speaks for words of their topics."""
    wiring = Wiring("gqa", 2, BLANK + 1)
    topic, out = wiring.block(TOPICS), wiring.block(TOPICS)
    for token in range(BLANK):
        wiring.embed[token, topic[token % TOPICS]] = 3.0
        wiring.unembed[token, out[token % TOPICS]] = 3.0
    if reads:
        wiring.carry(1, 1, topic, out, 1.0)
    wiring.background(0.01)
    return serve(wiring, "topics")


def parts(seed: int, *, meaning: bool = True):
    """Passages of mostly one topic; few share words, because a topic has many. Labels without meaning are shuffled."""
    rng = np.random.default_rng(seed)
    labels = [topic for _ in range(EACH) for topic in range(TOPICS)]
    rows = []
    for topic in labels:
        own = rng.random(LENGTH) < 0.8
        topics = np.where(own, topic, rng.integers(TOPICS, size=LENGTH))
        rows.append((BLANK, *(topics + TOPICS * rng.integers(WORDS, size=LENGTH)).tolist()))
    shown = labels if meaning else rng.permutation(labels).tolist()
    return split(tuple(map(str, range(TOPICS))), rows, shown, rng, SETTINGS.examples)


def results(tmp_path: Path, *, known: bool):
    return measured(ExperimentContext(SETTINGS, model(reads=known), 0, Cache(tmp_path)), parts(1, meaning=known), 2000)


def test_on_a_model_that_reads_topics_features_find_them_and_what_they_select_helps(tmp_path: Path) -> None:
    about = results(tmp_path, known=True)
    claims = SETTINGS.judge(about)
    # Mean activations of this model hold nothing but topics: features cannot do more, and only rank better than shared words do.
    verdicts = [claim.verdict for claim in claims]
    assert verdicts == ["replicates", "replicates", "in part", "does not replicate"], [claim.here for claim in claims]
    assert about["precision"]["mean"]["features"]["mean"] > 0.9
    assert [drawing.name for drawing in SETTINGS.draw(about, "toy")] == ["precision", "gain", "mean-gain"]


def test_where_labels_mean_nothing_and_context_is_not_read_no_claim_replicates(tmp_path: Path) -> None:
    claims = SETTINGS.judge(results(tmp_path, known=False))
    assert not [claim.here for claim in claims if claim.verdict == "replicates"]


def test_the_gate_asks_whether_context_of_the_own_task_helps() -> None:
    assert context_gain(model(), parts(1)).mean() > 0.5
    assert context_gain(model(reads=False), parts(1)).mean() == pytest.approx(0, abs=0.1)


def test_features_must_be_better_than_both_other_ways() -> None:
    above, level = {"mean": 0.2, "low": 0.1, "high": 0.3}, {"mean": 0.0, "low": -0.1, "high": 0.1}
    for dense, tokens, verdict in ((above, above, "replicates"), (level, above, "in part"), (level, level, "does not replicate")):
        differences = {"random": above, "dense": dense, "tokens": tokens}
        ways = dict.fromkeys(("features", "dense", "tokens", "random", "none"), level)
        about = {
            "precision": {"mean": ways, "above": differences},
            "loss": {"mean": ways, "below": differences, "random_draws": [1.0, 2.0]},
        }
        assert [claim.verdict for claim in SETTINGS.judge(about)] == ["replicates", "replicates", verdict, verdict]


def test_examples_held_out_passages_and_those_to_select_are_different_ones() -> None:
    whole = parts(1)
    taken = [i for group in (*whole.examples, *whole.held) for i in group]
    assert len(set(taken)) == len(taken) == 4 * TOPICS
    assert sorted([*taken, *whole.pool]) == list(range(len(whole.rows)))
    for task, (examples, held) in enumerate(zip(whole.examples, whole.held, strict=True)):
        assert {whole.labels[i] for i in (*examples, *held)} == {task}
    with pytest.raises(BadParameterError, match="8 passages"):
        split(whole.tasks, whole.rows, whole.labels, np.random.default_rng(0), 4)


def test_tasks_are_of_kinds_that_there_are_and_share_none() -> None:
    kinds = [kind for group in TASKS.values() for kind in group]
    assert len(kinds) == len(set(kinds))
    assert set(kinds) <= set(list_kinds())


@pytest.mark.real_model
def test_passages_of_a_tokenizer_are_cut_and_labelled(smollm2) -> None:
    rows, labels, between = passages(smollm2, 36)
    assert len(rows) == len(labels) > 200
    assert {len(row) for row in rows} <= set(range(24, 37))
    assert set(labels) == set(range(-1, len(TASKS)))
    assert smollm2.tokenizer.decode(between) == "\n\n"
