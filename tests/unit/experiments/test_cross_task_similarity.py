"""Examples of other tasks on a model that copies their answers, with tasks in families, and on one that does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError
from circuitlab.experiments.cross_task_similarity import CrossTaskSimilarity
from circuitlab.experiments.cross_task_similarity.prompts import CrossPrompts
from circuitlab.experiments.cross_task_similarity.transfer import gains, own_help, related, similarities
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache

FAMILIES, TASKS, PROMPTS = 4, 8, 3
BLANK, QUERY, FILL, TASK = 0, 1, 2, 5
ANSWER = TASK + TASKS


def model(*, wired: bool = True, alike: bool = True):
    """A head copies the answers of the examples; tasks of a family have the same answer, and alike definitions or those of others."""
    wiring = Wiring("gqa", 2, ANSWER + FAMILIES)
    family, own, answer, out = wiring.block(FAMILIES), wiring.block(TASKS), wiring.block(FAMILIES), wiring.block(FAMILIES)
    is_query, is_answer = wiring.block(), wiring.block()
    wiring.embed[QUERY, is_query[0]] = 1.0
    for i in range(TASKS):
        wiring.embed[TASK + i, own[i]] = 3.0
        wiring.embed[TASK + i, family[i // 2 if alike else i % FAMILIES]] = 3.0
    for i in range(FAMILIES):
        wiring.embed[ANSWER + i, answer[i]] = wiring.embed[ANSWER + i, is_answer[0]] = 1.0
        wiring.unembed[ANSWER + i, out[i]] = 4.0
    if wired:
        wiring.match(1, 1, is_query, is_answer, 14.0)
        wiring.carry(1, 1, answer, out, 1.0)
    return serve(wiring, "tasks")


def prompts() -> CrossPrompts:
    """Each prompt with another filler; moved answers are those of the next family."""

    def shown(source: int, target: int, shift: int) -> tuple[tuple[int, ...], ...]:
        said = ANSWER + (source // 2 + shift) % FAMILIES
        return tuple((BLANK, TASK + source, said, said, TASK + target, FILL + i, QUERY) for i in range(PROMPTS))

    every = [tuple(tuple(shown(s, t, shift) for t in range(TASKS)) for s in range(TASKS)) for shift in (0, 1)]
    alone = tuple(tuple((BLANK, TASK + t, FILL + i, QUERY) for i in range(PROMPTS)) for t in range(TASKS))
    answers = tuple((ANSWER + t // 2,) * PROMPTS for t in range(TASKS))
    definitions = tuple(((BLANK, TASK + t), 1) for t in range(TASKS))
    return CrossPrompts(tuple(f"task {t}" for t in range(TASKS)), alone, every[0], every[1], answers, definitions)


def measured(tmp_path: Path, *, wired: bool = True, alike: bool = True) -> dict:
    experiment = CrossTaskSimilarity(permutations=500)
    lab = ExperimentContext(experiment, model(wired=wired, alike=alike), 0, Cache(tmp_path))
    changed, alike = gains(lab.model, prompts()), similarities(lab.model, prompts())
    return {"tasks": list(prompts().names), "gains": changed, **experiment._related(lab, changed, alike)}


def test_where_answers_are_copied_within_families_every_claim_replicates(tmp_path: Path) -> None:
    results = measured(tmp_path, wired=True)
    assert [claim.verdict for claim in CrossTaskSimilarity().judge(results)] == ["replicates"] * 2
    gain = np.array(results["gains"]["likely"]["shown"])
    kin = np.array([[s // 2 == t // 2 for t in range(TASKS)] for s in range(TASKS)])
    assert gain[kin].min() > 1 > -1 > gain[~kin].max()
    assert np.diag(results["gains"]["likely"]["dealt"]).max() < -1, "moved answers are of another family"
    assert len(CrossTaskSimilarity().draw(results, "toy")) == 3
    help_of_own = own_help(model(), prompts())
    assert help_of_own["own"]["low"] > 0


def test_where_nothing_is_copied_no_claim_replicates(tmp_path: Path) -> None:
    results = measured(tmp_path, wired=False)
    assert {claim.verdict for claim in CrossTaskSimilarity().judge(results)} == {"does not replicate"}
    assert own_help(model(wired=False), prompts())["own"]["low"] <= 0


def test_where_other_tasks_are_alike_than_those_that_help_only_the_help_replicates(tmp_path: Path) -> None:
    claims = CrossTaskSimilarity().judge(measured(tmp_path, alike=False))
    assert [claim.verdict for claim in claims] == ["replicates", "does not replicate"]


def test_the_correlation_is_within_targets_and_its_null_permutes_tasks() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.random((1, 8, 8))
    similarity += similarity.transpose(0, 2, 1)
    targets = 10 * rng.random(8)
    found = related(similarity[0] + targets, similarity, 300, rng)
    assert found["mean"] == pytest.approx(1.0) and found["p"] < 0.01 and found["layers"] == [1.0]
    rates = [related(rng.random((8, 8)), similarity, 99, rng)["p"] <= 0.05 for _ in range(200)]
    assert np.mean(rates) < 0.1
    assert related(np.ones((8, 8)), similarity, 100, rng)["p"] == 1.0


def test_too_few_tasks_are_refused() -> None:
    with pytest.raises(BadParameterError, match="2 tasks were given"):
        CrossPrompts(("a", "b"), (), (), (), (), ())
