"""Task-vector heads: a planted head says the task, values equal a slow reading, and what cannot be measured is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.methods.roles.in_context import TASKS, InContextTask, in_context_task, task_pairs
from circuitlab.methods.roles.task_vectors import TaskVector
from circuitlab.model.sites import Edit, Site
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.testing.tiny import tiny_model

ASK, NONE = 7, 6
"""The token that ends a prompt, and a demonstration that says nothing."""


def planted(form: str = "gqa"):
    """A model whose head a0.h1 looks from the last token at demonstrations 0 to 2 and says the answers 3 to 5."""
    wiring = Wiring(form, 2, 8)
    token, out = wiring.block(8), wiring.block(8)
    for i in range(8):
        wiring.embed[i, token[i]] = 1.0
        wiring.unembed[i, out[i]] = 1.0
    wiring.match(0, 1, [token[ASK]] * 3, token[:3], 20.0)
    wiring.carry(0, 1, token[:3], out[3:6], 6.0)
    wiring.background(0.02)
    return serve(wiring, "task-vectors")


def prompts(task: int) -> InContextTask:
    clean = ((task, NONE, task, ASK), (NONE, task, task, ASK), (task, task, NONE, NONE, ASK))
    corrupt = ((NONE, NONE, NONE, ASK), (3, NONE, 4, ASK), (NONE, 4, 5, 3, ASK))
    return InContextTask(f"say {task + 3}", clean, corrupt, (task + 3,) * 3)


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_the_planted_head_alone_earns_the_role(form) -> None:
    scores = TaskVector(prompts=tuple(prompts(task) for task in range(3)))(planted(form))
    assert np.argwhere(scores.earned()).tolist() == [[0, 1]]
    assert scores.value[0, 1] > 0.3 and abs(scores.reference[:, 0, 1]).max() < 0.02
    assert scores.n_samples == 3 and scores.interval().low[0, 1] > 0


def test_values_equal_a_slow_reading() -> None:
    model = planted()
    given = tuple(prompts(task) for task in range(2))
    scores = TaskVector(prompts=given)(model)

    def probability(runner, row, answer) -> float:
        logits = runner.logits(torch.tensor([row]), torch.tensor([len(row) - 1]))[0]
        return float(logits.double().softmax(-1)[answer])

    for head in ((0, 1), (1, 2)):
        for side, values in (("clean", scores.values), ("corrupt", scores.reference)):
            rises = []
            for number, row in enumerate(given[1].corrupt):
                others = [one for i, one in enumerate(getattr(given[1], side)) if i != number]
                ends = [model.capture(torch.tensor([one]), [Site.Z])[Site.Z][0, head[0], -1, head[1]] for one in others]
                edit = Edit(Site.Z, head[0], torch.stack(ends).mean(0)[None], head=head[1], positions=torch.tensor([len(row) - 1]))
                rises.append(probability(model.with_edits([edit]), row, 4) - probability(model, row, 4))
            assert values[1][head] == pytest.approx(np.mean(rises), abs=1e-6)


def test_a_model_that_demonstrations_do_not_help_is_refused() -> None:
    with pytest.raises(ModelError, match="Demonstrations do not help tiny-llama"):
        TaskVector(prompts=tuple(prompts(task) for task in range(3)))(tiny_model("llama"))
    with pytest.raises(ModelError, match="no tokenizer"):
        TaskVector()(tiny_model("llama"))


def test_what_cannot_be_compared_is_refused() -> None:
    for params in ({"tasks": ("plurals",)}, {"n": 1}, {"shots": 1}):
        with pytest.raises(BadParameterError, match="cannot be compared"):
            TaskVector(**params)
    with pytest.raises(BadParameterError, match="2 clean prompts, 1 corrupt ones and 2 answers"):
        InContextTask("odd", ((1,), (2,)), ((1,),), (3, 4))
    with pytest.raises(UnknownNameError, match="in-context task"):
        task_pairs("plural")


def test_every_table_has_pairs_enough_and_no_question_twice() -> None:
    for name in TASKS:
        questions = [question for question, _answer in task_pairs(name)]
        assert len(questions) == len(set(questions)) >= 20, name


def test_prompts_hold_demonstrations_and_their_answers_dealt_anew() -> None:
    from tests.unit.methods.roles.word_model import word_model

    words = ["Q", "A", ":"] + [word for pair in task_pairs("plurals") for word in pair]
    model = word_model(words)
    task = in_context_task(model, "plurals", n=4, shots=3, seed=0)
    assert len(task.clean) == len(task.corrupt) == 4
    text = model.tokenizer.convert_ids_to_tokens
    pairs = dict(task_pairs("plurals"))
    for clean, corrupt, answer in zip(task.clean, task.corrupt, task.answers, strict=True):
        said, dealt = text(list(clean)), text(list(corrupt))
        questions = said[2::6]
        assert questions == dealt[2::6] and len(set(questions)) == 4
        assert said[5::6] == [pairs[one] for one in questions[:3]], "right answers"
        assert sorted(dealt[5::6]) == sorted(said[5::6]) and all(a != b for a, b in zip(said[5::6], dealt[5::6], strict=True))
        assert text([answer]) == [pairs[questions[3]]]
