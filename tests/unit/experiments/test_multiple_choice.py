"""Multiple choice on a model in which a head was wired to copy the right label, and on one in which none was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from circuitlab.core.nodes import Head
from circuitlab.execute.direct_logits import head_logits
from circuitlab.experiments.multiple_choice import MultipleChoice
from circuitlab.experiments.multiple_choice.forms import AS_CHOSEN, LABELS
from circuitlab.experiments.multiple_choice.heads import letter_scores
from circuitlab.experiments.multiple_choice.questions import Choices
from circuitlab.experiments.multiple_choice.steps import measured
from circuitlab.experiments.types import ExperimentContext
from circuitlab.methods import LogitAttribution
from circuitlab.metrics import LogitDiff
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache

OPTIONS, CONTENTS = 3, 4
BLANK, ASK, CONTENT, LABEL = 0, 1, 1 + CONTENTS, 1 + 2 * CONTENTS
SETS = {name: LABEL + OPTIONS * i for i, name in enumerate(LABELS)}
GAINS = dict(zip(LABELS, (1.0, 1.0, 0.5, 0.02), strict=True))
PREVIOUS, LETTER = Head(0, 0), Head(1, 1)


def model(*, wired: bool = True):
    """``content label`` three times and a query: a0.h0 writes each content behind it, a1.h1 copies the label behind the asked content."""
    n_labels = OPTIONS * len(SETS)
    wiring = Wiring("gqa", 2, LABEL + n_labels, ballast=12.0)
    ask, content, before = wiring.block(CONTENTS), wiring.block(CONTENTS), wiring.block(CONTENTS)
    label, out = wiring.block(n_labels), wiring.block(n_labels)
    for i in range(CONTENTS):
        wiring.embed[ASK + i, ask[i]] = 1.0
        wiring.embed[CONTENT + i, content[i]] = 1.0
    for i in range(n_labels):
        wiring.embed[LABEL + i, label[i]] = 1.0
        wiring.unembed[LABEL + i, out[i]] = 4.0
    if wired:
        wiring.previous(PREVIOUS.layer, PREVIOUS.head, 14.0)
        wiring.carry(PREVIOUS.layer, PREVIOUS.head, content, before, 1.0)
        wiring.match(LETTER.layer, LETTER.head, ask, before, 14.0)
        for i, gain in enumerate(GAINS.values()):
            part = slice(OPTIONS * i, OPTIONS * (i + 1))
            wiring.carry(LETTER.layer, LETTER.head, label[part], out[part], gain)
    wiring.background(0.02)
    return serve(wiring, "choices")


def asked(seed: int, labels: str = AS_CHOSEN, n: int = 24) -> Choices:
    rng, first = np.random.default_rng(seed), SETS[labels]
    clean, corrupt, true, answers, foils = [], [], [], [], []
    for number in range(n):
        contents = rng.permutation(CONTENTS)[:OPTIONS].tolist()
        place = number % OPTIONS
        other = (place + 1 + number // OPTIONS % (OPTIONS - 1)) % OPTIONS
        swapped = list(contents)
        swapped[place], swapped[other] = contents[other], contents[place]
        rows = [[token for i, c in enumerate(row) for token in (CONTENT + c, first + i)] for row in (contents, swapped)]
        query = ASK + contents[place]
        clean.append([BLANK, *rows[0], query])
        corrupt.append([BLANK, *rows[1], query])
        true.append(place)
        answers.append(first + place)
        foils.append(first + other)
    marks = {f"{kind}{i}": [at + 2 * i] * n for kind, at in (("C", 1), ("L", 2)) for i in range(OPTIONS)}
    batch = ContrastBatch.from_tokens(clean, corrupt, answers, foils, marks=marks)
    return Choices(batch, tuple(range(first, first + OPTIONS)), np.array(true))


def results(tmp_path: Path, *, wired: bool = True):
    lab = ExperimentContext(MultipleChoice(heads=1), model(wired=wired), 0, Cache(tmp_path))
    return measured(lab, asked(0), {name: asked(1, name) for name in SETS}, (1, 3, (1, 3, 8)))


@pytest.fixture(scope="module")
def of_wired(tmp_path_factory: pytest.TempPathFactory):
    return results(tmp_path_factory.mktemp("wired"))


def test_the_wired_head_is_chosen_and_every_claim_replicates(of_wired) -> None:
    assert of_wired["letter"]["heads"] == [str(LETTER)]
    assert of_wired["effects"]["indirect"][0]["head"] == str(PREVIOUS)
    claims = MultipleChoice().judge(of_wired)
    assert [claim.verdict for claim in claims] == ["replicates"] * len(claims), claims


def test_without_it_no_claim_replicates(tmp_path: Path) -> None:
    claims = MultipleChoice().judge(results(tmp_path, wired=False))
    assert not [claim for claim in claims if claim.verdict == "replicates"], claims


def test_figures_are_drawn_from_plain_data(of_wired) -> None:
    drawings = MultipleChoice().draw(of_wired, "toy")
    assert [drawing.name for drawing in drawings] == ["letter-heads", "matrix", "direct", "total", "ranks", "labels"]


def test_direct_logits_of_heads_are_those_of_logit_attribution() -> None:
    toy, batch = model(), asked(2, n=6).batch
    ids = torch.cat([batch.answers[:, 0], batch.foils[:, 0]])
    written = head_logits(toy, batch.clean, batch.end, ids).numpy()
    rows = np.arange(batch.n_pairs)
    apart = written[rows, :, :, rows] - written[rows, :, :, rows + batch.n_pairs]
    np.testing.assert_allclose(apart, LogitAttribution()(toy, batch, LogitDiff()).values("heads"), atol=1e-5)


def test_a_head_that_always_raises_one_label_is_no_letter_head() -> None:
    true = np.array([0, 1, 2, 0, 1, 2])
    always, right = np.zeros((6, 1, 3)), np.zeros((6, 1, 3))
    always[..., 1] = 5.0
    right[np.arange(6), 0, true] = 1.0
    written = np.concatenate([always, right], axis=1)
    matrix, own = letter_scores(written - written.mean(-1, keepdims=True), true)
    np.testing.assert_allclose(matrix[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(own.mean(0), [0.0, 2 / 3], atol=1e-12)
    np.testing.assert_allclose(np.diagonal(matrix[1]), 2 / 3)


def test_projecting_onto_every_direction_changes_nothing() -> None:
    from circuitlab.experiments.multiple_choice.ranks import subspaces

    toy, questions = model(), asked(3, n=6)
    spaces = subspaces(toy, questions, [LETTER], "L")
    whole = toy.edited(*(edit for space in spaces for edit in space.projected(len(space.mean))))
    np.testing.assert_allclose(questions.losses(whole), questions.losses(toy), atol=1e-4)
    mean = toy.edited(*(edit for space in spaces for edit in space.projected(0)))
    assert questions.losses(mean).mean() > questions.losses(toy).mean() + 0.3
    assert replace(spaces[0], mean=spaces[0].mean + 1).projected(1)[0].identity() != spaces[0].projected(1)[0].identity()
