"""Tuning heads where one head's offset decides the answer, and where no head can."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.core.nodes import Head
from circuitlab.experiments.head_tuning import HeadTuning
from circuitlab.experiments.head_tuning.injection import inject
from circuitlab.experiments.head_tuning.offsets import choose_heads, tune_elsewhere, tune_offsets
from circuitlab.experiments.head_tuning.prompts import Questions, TuningTask
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache

ITEMS, ANSWERS = 16, 4
QUERY, DEMONSTRATION, MUTE, ITEM = 0, 1, 2, 3
ANSWER = ITEM + ITEMS
SPEAKER, TASK = Head(1, 1), Head(1, 2)
STEPS = 50


def model(*, wired: bool = True):
    """Head a1.h1 says the item's answer too quietly; a1.h2 raises every answer where there are demonstrations."""
    wiring = Wiring("gqa", 2, ANSWER + ANSWERS)
    item, out, mute = wiring.block(ITEMS), wiring.block(ANSWERS), wiring.block()
    is_query, is_item, is_shown = wiring.block(), wiring.block(), wiring.block()
    wiring.embed[QUERY, is_query[0]] = 1.0
    wiring.embed[QUERY, mute[0]] = 1.0
    wiring.embed[DEMONSTRATION, is_shown[0]] = 1.0
    wiring.unembed[MUTE, mute[0]] = 5.0
    for i in range(ITEMS):
        wiring.embed[ITEM + i, item[i]] = 1.0
        wiring.embed[ITEM + i, is_item[0]] = 1.0
    for i in range(ANSWERS):
        wiring.unembed[ANSWER + i, out[i]] = 5.0
    if wired:
        wiring.match(SPEAKER.layer, SPEAKER.head, is_query, is_item, 14.0)
        wiring.carry(SPEAKER.layer, SPEAKER.head, item, [out[i % ANSWERS] for i in range(ITEMS)], 0.6)
        wiring.match(TASK.layer, TASK.head, is_query, is_shown, 14.0)
        for feature in out:
            wiring.carry(TASK.layer, TASK.head, is_shown, [feature], 0.8)
    wiring.background(1e-4)  # Adam moves loud and quiet heads alike: the penalty has to outweigh what no one reads
    return serve(wiring, "tuning")


def asked(items: range, *, shown: bool) -> Questions:
    start = [MUTE, DEMONSTRATION, DEMONSTRATION] if shown else [MUTE]
    rows = [[*start, ITEM + i, QUERY] for i in items]
    return Questions.of(rows, [ANSWER + i % ANSWERS for i in items], [f"item {i}" for i in items])


def task() -> TuningTask:
    train, held = range(8), range(8, ITEMS)
    return TuningTask(asked(train, shown=False), asked(held, shown=False), asked(train, shown=True), asked(held, shown=True))


def mute_task() -> TuningTask:
    """The same questions, to which no answer at all is right: the unedited model is, and what another task teaches makes it wrong."""
    train, held, shown_train, shown_held = (
        dataclasses.replace(part, answers=torch.full_like(part.answers, MUTE))
        for part in (asked(range(8), shown=False), asked(range(8, ITEMS), shown=False), *(asked(range(8), shown=True),) * 2)
    )
    return TuningTask(train, held, shown_train, shown_held)


def measured(tmp_path: Path, *, wired: bool):
    lab = ExperimentContext(HeadTuning(), model(wired=wired), 0, Cache(tmp_path))
    chosen = choose_heads(lab, task(), 1, STEPS)
    silent, held = mute_task(), {"": task().held}
    offsets = tune_offsets(lab, task(), chosen["heads"], STEPS, 2, {"mute": silent.held})
    other = {"heads": [str(TASK)], **tune_offsets(lab, silent, [str(TASK)], STEPS, 1, {"items": held[""]})}
    elsewhere = tune_elsewhere(lab, task(), [[str(Head(0, 0))]], 1, STEPS)
    injection = inject(lab, task(), STEPS)
    return {"task": "items", "heads": chosen, "offsets": {**offsets, **elsewhere}, "injection": injection, "tasks": {"mute": other}}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory):
    return measured(tmp_path_factory.mktemp("wired"), wired=True)


def test_the_wired_heads_are_chosen_and_every_claim_of_a_gain_replicates(found) -> None:
    assert found["heads"]["heads"] == [str(SPEAKER)]
    assert found["injection"]["gates"][TASK.layer][TASK.head] > 0.7
    verdicts = [claim.verdict for claim in HeadTuning().judge(found)]
    assert verdicts[:3] == ["replicates"] * 3
    assert verdicts[4:] == ["replicates"] * 3, [claim.here for claim in HeadTuning().judge(found)]
    assert verdicts[3] != "replicates", "demonstrations are always answered right here, and cannot be beaten"
    assert sum(found["offsets"]["few_shot"]["right"]) == ITEMS - 8
    assert sum(found["offsets"]["zero_shot"]["right"]) == 0


def test_where_nothing_can_be_learnt_no_claim_replicates(tmp_path: Path) -> None:
    results = measured(tmp_path, wired=False)
    assert not [claim for claim in HeadTuning().judge(results) if claim.verdict == "replicates"]


def test_training_repeats_and_leaves_the_model_and_the_random_state_alone(tmp_path: Path, found) -> None:
    lab = ExperimentContext(HeadTuning(), model(), 0, Cache(tmp_path))
    before, state = task().held.measured(lab.model), torch.get_rng_state()
    assert choose_heads(lab, task(), 1, STEPS) == found["heads"]
    assert torch.equal(state, torch.get_rng_state())
    assert (before == task().held.measured(lab.model)).all()
    other = dataclasses.replace(lab, seed=1)
    assert choose_heads(other, task(), 1, 2)["map"] != choose_heads(lab, task(), 1, 2)["map"]


def test_injected_prompts_that_beat_demonstrations_replicate_the_last_claim(found) -> None:
    """Where demonstrations mislead, the rule fires; the data are those of the toy with the few-shot answers made wrong."""
    wrong = {**found["offsets"], "few_shot": found["offsets"]["zero_shot"]}
    assert HeadTuning().judge({**found, "offsets": wrong})[3].verdict == "replicates"


def test_more_heads_than_leave_a_control_are_refused(tmp_path: Path) -> None:
    lab = ExperimentContext(HeadTuning(), model(), 0, Cache(tmp_path))
    with pytest.raises(BadParameterError, match="5 of 8 heads"):
        choose_heads(lab, task(), 5, 1)


def test_figures_are_drawn_from_plain_data(found) -> None:
    drawings = HeadTuning().draw(found, "toy")
    assert [drawing.name for drawing in drawings] == ["accuracy", "log-probability", "scalings", "gates", "transfer"]
