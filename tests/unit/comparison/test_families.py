"""Prompt families: two mechanisms in one task are seen, one mechanism is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.circuits import TopK
from circuitlab.comparison import compare_tasks, prompt_families
from circuitlab.comparison.families import _halves, _split
from circuitlab.core.errors import BadParameterError
from circuitlab.testing.fakes import fake_scores

SHAPE = (5, 8)
N = 32


def mechanism(rng):
    return rng.normal(size=SHAPE) ** 3


def pairs(first, second, rng, spread=0.6):
    """Half the pairs by one mechanism, half by the other, each with its own size of effect."""
    mean = np.where((np.arange(N) < N // 2)[:, None, None], first, second)
    return mean * rng.uniform(0.5, 2, size=(N, 1, 1)) + spread * rng.normal(size=(N, *SHAPE))


def test_two_mechanisms_are_split_and_named():
    rng = np.random.default_rng(0)
    labels = ["ABBA"] * (N // 2) + ["BABA"] * (N // 2)
    found = prompt_families(fake_scores(pairs(mechanism(rng), mechanism(rng), rng)), labels, 8)
    assert set(found.family[: N // 2]) == {found.family[0]}
    assert set(found.family[N // 2 :]) == {1 - found.family[0]}
    assert found.p < 0.01 and found.label_p < 0.01
    assert found.overlap < found.overlap_by_chance
    assert "100% ABBA" in found.warning and "100% BABA" in found.warning
    assert "two families of 16 and 16" in found.warning and f"{found.overlap:.2f}" in found.warning
    assert sorted(found.order) == list(range(N))
    sides = found.family[found.order]
    assert (np.diff(sides) != 0).sum() == 1, "the dendrogram keeps families together"


def test_a_difference_too_small_for_a_blind_split_shows_in_the_labels():
    rng = np.random.default_rng(1)
    shared, other = mechanism(rng), mechanism(rng)
    data = fake_scores(pairs(shared, shared + 0.25 * other, rng, 0.8))
    found = prompt_families(data, ["a"] * (N // 2) + ["b"] * (N // 2), 8)
    assert found.label_p < 0.01 < found.p
    assert "differ between the labels" in found.warning
    assert np.isnan(prompt_families(data, k=8).label_p)


def test_one_mechanism_is_rarely_called_two():
    rng = np.random.default_rng(2)
    found = []
    for _ in range(40):
        one = mechanism(rng)
        labels = list(rng.permutation(["a", "b"] * (N // 2)))
        found.append(prompt_families(fake_scores(pairs(one, one, rng)), labels, 8, n=99))
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 40)
    assert np.mean([one.label_p <= 0.05 for one in found]) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 40)
    assert np.mean([one.label_p for one in found]) == pytest.approx(0.5, abs=0.15)
    assert not [one.warning for one in found if one.p > 0.01 and one.label_p > 0.01 and one.warning]


def test_the_size_of_the_effect_is_no_family():
    rng = np.random.default_rng(3)
    one = mechanism(rng)
    strong = np.where((np.arange(N) < N // 2)[:, None, None], 10.0, 1.0)
    assert prompt_families(fake_scores(strong * (one + 0.2 * rng.normal(size=(N, *SHAPE)))), k=8).p > 0.05


def test_few_or_equal_pairs_are_not_tested():
    rng = np.random.default_rng(4)
    assert prompt_families(fake_scores(rng.normal(size=(7, *SHAPE))), k=8).p == 1
    constant = prompt_families(fake_scores(np.repeat(rng.normal(size=(1, *SHAPE)), 10, axis=0)), k=8)
    assert (constant.p, constant.warning) == (1, "")
    single = prompt_families(fake_scores(rng.normal(size=(1, *SHAPE))), k=8)
    assert single.p == 1 and single.family.tolist() == [0]


@pytest.mark.parametrize("labels", [["a"] * N, ["a", "b"]])
def test_labels_must_divide_the_pairs(labels):
    with pytest.raises(BadParameterError, match="do not divide 32 pairs"):
        prompt_families(fake_scores(np.ones((N, *SHAPE))), labels)


def test_a_comparison_notes_a_task_of_two_mechanisms():
    rng = np.random.default_rng(5)
    mixed = fake_scores(pairs(mechanism(rng), mechanism(rng), rng), task="mixed")
    one = mechanism(rng)
    pure = fake_scores(pairs(one, one, rng), task="pure")
    notes = compare_tasks({"mixed": mixed, "pure": pure}, TopK(8), n_boot=20).notes
    assert len(notes) == 1 and notes[0].startswith("mixed: The task may mix mechanisms")


def test_the_quick_cut_of_a_tree_is_scipys():
    rng = np.random.default_rng(6)
    for rows in (2, 3, 9, 24):
        for values in (rng.normal(size=(rows, 5)), np.round(rng.normal(size=(rows, 2))), np.zeros((rows, 7))):  # the last two have ties
            quick, whole = _halves(values), _split(values)[0]
            assert np.array_equal(quick, whole) or np.array_equal(quick, 1 - whole)


def test_scores_that_are_compared_again_are_not_tested_again(monkeypatch):
    tested = []

    def counted(run, mark):
        tested.append(run)
        return prompt_families(run, mark=mark)

    monkeypatch.setattr("circuitlab.comparison.matrix.prompt_families", counted)
    rng = np.random.default_rng(7)
    scores = {task: fake_scores(pairs(mechanism(rng), mechanism(rng), rng), task=task) for task in ("a", "b")}
    first, second = (compare_tasks(scores, TopK(8), n_boot=20).notes for _ in range(2))
    assert first == second and len(first) == 2
    assert len(tested) == 2
