"""Numbers of attention patterns: by hand on a scripted pattern, even attention gives what chance gives, and chance is calibrated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from circuitlab.methods.roles import patterns
from circuitlab.methods.roles.natural import is_delimiter
from circuitlab.methods.roles.positional import PositionalReader, centred
from circuitlab.methods.roles.repeats import previous_targets, repeat_targets

# Four queries; the last two rows were chosen so that every sum can be done in the head.
SCRIPT = np.array([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.2, 0.5, 0.3, 0.0], [0.1, 0.2, 0.6, 0.1]])


def even(length: int, window: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Even attention to what is seen, and what that is."""
    seen = np.tri(length, dtype=bool)
    if window is not None:
        seen &= ~np.tri(length, k=-window, dtype=bool)
    return seen / seen.sum(-1, keepdims=True), seen


def close(found, value, control) -> None:
    np.testing.assert_allclose(found[0], value, atol=1e-12)
    np.testing.assert_allclose(found[1], control, atol=1e-12)


def test_previous_token_by_hand() -> None:
    # Rows 1, 2, 3 give 0.5, 0.5, 0.6 to the token before; their other keys get 0.5 / 1, 0.5 / 2, 0.4 / 3 each.
    close(patterns.at_targets(SCRIPT, previous_targets(4)), 1.6 / 3, (0.5 + 0.25 + 0.4 / 3) / 3)


def test_induction_duplicate_and_echo_by_hand() -> None:
    # "a b a b": the second a (row 2) saw an a at 0 with b after it at 1; the second b (row 3) a b at 1 with a after it at 2.
    close(patterns.at_targets(SCRIPT, repeat_targets(4, 2, 0, after=0)), (0.2 + 0.2) / 2, (0.8 / 2 + 0.8 / 3) / 2)
    close(patterns.at_targets(SCRIPT, repeat_targets(4, 2, 0, after=1)), (0.5 + 0.6) / 2, (0.5 / 2 + 0.4 / 3) / 2)
    # "a a a a": row 1 has one earlier copy and one other key, row 2 two and one, row 3 three and one.
    close(patterns.at_targets(SCRIPT, repeat_targets(4, 1, 0, after=0)), (0.5 + 0.7 + 0.9) / 3, (0.5 * 1 + 0.3 * 2 + 0.1 * 3) / 3)
    # "B a a a" with a token before the first block: copies of a stand at 1 and 2.
    assert np.argwhere(repeat_targets(4, 1, 1, after=0)).tolist() == [[2, 1], [3, 1], [3, 2]]


def test_razor_attention_means_are_ours_times_a_constant() -> None:
    period, copies, rng = 5, 4, np.random.default_rng(0)
    length = period * copies
    pattern = rng.dirichlet(np.ones(length), size=(3, length)) * np.tri(length)
    mask = np.array([[j < i and (i - j) % period == 0 for j in range(length)] for i in range(length)])
    paper = (pattern * mask).mean((-1, -2))
    found = patterns.at_targets(pattern, repeat_targets(length, period, 0, after=0))[0]
    np.testing.assert_allclose(found * (copies - 1) * period / length**2, paper, atol=1e-12)


def test_a_target_outside_the_window_gets_nothing_and_is_compared_with_nothing() -> None:
    pattern, seen = even(8, window=3)
    close(patterns.at_targets(pattern, repeat_targets(8, 4, 0, after=0), seen), 0.0, 0.0)
    close(patterns.at_targets(pattern, previous_targets(8), seen), (1 / 2 + 6 / 3) / 7, (1 / 2 + 6 / 3) / 7)


def test_sink_mass_by_hand() -> None:
    # r_0 of ACT: the sum of column 0 over four queries. The others of the first three keys: the row itself, 0.5, 0.8 / 2, 0.8 / 2.
    close(patterns.sink(SCRIPT, early=3), 1.8 / 4, (1 + 0.5 + 0.4 + 0.4) / 4)
    assert patterns.sink(SCRIPT)[1] == pytest.approx((1 + 0.5 + 0.4 + 0.9 / 3) / 4), "of the first eight, row 3 sees three others"


def test_span_and_locality_by_hand() -> None:
    # Distances 0; 0.5; 0.2 * 2 + 0.5 = 0.9; 0.1 * 3 + 0.2 * 2 + 0.6 = 1.3: 2.7 of 0 + 1 + 2 + 3. Even rows: 0 + 0.5 + 1 + 1.5.
    close(patterns.span(SCRIPT), 2.7 / 6, 3.0 / 6)
    # Within two tokens, rows 2 and 3: 0.8 and 0.7; even rows 2 / 3 and 2 / 4.
    close(patterns.locality(SCRIPT, 2), 0.75, (2 / 3 + 2 / 4) / 2)
    close(patterns.locality(SCRIPT, 4), 0.0, 0.0)


def test_focus_by_hand() -> None:
    entropy = [-sum(x * np.log(x) for x in row if x) for row in SCRIPT.tolist()]
    want = np.mean([1 - entropy[t] / np.log(t + 1) for t in (1, 2, 3)])
    close(patterns.focus(SCRIPT), want, 0.0)
    assert patterns.focus(np.eye(6))[0] == 1, "one key each"


def test_attention_to_marked_keys_by_hand() -> None:
    # Marked: key 1. Rows 1, 2, 3 see it and others; it gets 0.5, 0.5, 0.2 of 3; even rows 1 / 2, 1 / 3, 1 / 4.
    close(patterns.on_marked(SCRIPT, np.array([False, True, False, False])), 1.2 / 3, (1 / 2 + 1 / 3 + 1 / 4) / 3)
    # Marked: key 0. Row 0 sees nothing else and does not count.
    assert patterns.on_marked(SCRIPT, np.array([True, False, False, False]))[0] == pytest.approx(0.8 / 3)


def test_received_attention_and_kurtosis_by_hand() -> None:
    # Columns 1 and 2 have queries at least one token later; the first is left out.
    np.testing.assert_allclose(patterns.received(SCRIPT, gap=1, rows=1), [(0.5 + 0.2) / 2, 0.6])
    np.testing.assert_allclose(patterns.received(SCRIPT, gap=1, rows=2), [(0.5 + 0.2) / 2])
    one_of_ten = np.eye(10)[0]  # mean 0.1: m2 = 0.09, m4 = 0.1 * 0.9^4 + 0.9 * 0.1^4
    assert patterns.kurtosis(one_of_ten) == pytest.approx((0.1 * 0.9**4 + 0.9 * 0.1**4) / 0.09**2 - 3)
    assert patterns.kurtosis(np.full(7, 0.3)) == 0 and patterns.kurtosis(np.ones(1)) == 0
    values = np.random.default_rng(0).random((3, 40))
    np.testing.assert_allclose(patterns.kurtosis(values), stats.kurtosis(values, axis=-1))


def test_shuffled_rows_keep_near_keys_the_first_and_every_weight() -> None:
    rng = np.random.default_rng(1)
    pattern, seen = rng.dirichlet(np.ones(12), size=(2, 12)) * np.tri(12), np.tri(12, dtype=bool)
    moved = patterns.within_rows(pattern, rng.random((12, 12)), seen, gap=3)
    np.testing.assert_allclose(np.sort(moved), np.sort(pattern))
    near = np.arange(12)[:, None] - np.arange(12)[None, :] < 3
    assert (moved[:, near] == pattern[:, near]).all() and (moved[..., 0] == pattern[..., 0]).all()
    assert (moved != pattern).sum() > 20


@pytest.mark.parametrize("window", [None, 6])
def test_even_attention_gives_what_chance_gives(window) -> None:
    pattern, seen = even(40, window)
    marked = np.arange(40) % 5 == 3
    measures = [
        patterns.at_targets(pattern, previous_targets(40), seen),
        patterns.at_targets(pattern, repeat_targets(40, 4, 0, after=1), seen),
        patterns.sink(pattern, seen),
        patterns.span(pattern, seen),
        patterns.locality(pattern, 5, seen),
        patterns.focus(pattern, seen),
        patterns.on_marked(pattern, marked, seen),
    ]
    for value, control in measures:
        np.testing.assert_allclose(value, control, atol=1e-12)
    if window is None:
        assert patterns.span(pattern)[0] == pytest.approx(0.5)


def test_a_window_limits_span_and_makes_locality_certain() -> None:
    looks_far, seen = np.zeros((40, 40)), even(40, 6)[1]
    looks_far[np.arange(40), np.maximum(np.arange(40) - 5, 0)] = 1
    value, control = patterns.span(looks_far, seen)
    longest = sum(min(t, 5) for t in range(40)) / sum(range(40))
    assert value == pytest.approx(longest) and control == pytest.approx(longest / 2)
    close(patterns.locality(looks_far, 6, seen), 1.0, 1.0)


def test_a_sink_outside_the_keys_leaves_the_shares_of_the_rest() -> None:
    rng, seen = np.random.default_rng(2), np.tri(20, dtype=bool)
    whole = rng.dirichlet(np.ones(20), size=20) * seen
    whole /= whole.sum(-1, keepdims=True)
    half = whole * 0.5
    marked = np.arange(20) % 4 == 1
    for measure in (patterns.span, lambda p: patterns.locality(p, 5), lambda p: patterns.on_marked(p, marked), patterns.focus):
        np.testing.assert_allclose(measure(half), measure(whole))
    for measure in (patterns.sink, lambda p: patterns.at_targets(p, previous_targets(20))):
        np.testing.assert_allclose(measure(half), np.multiply(measure(whole), 0.5))
    nothing = np.zeros((20, 20))
    for measure in (patterns.span, patterns.focus, patterns.sink, lambda p: patterns.on_marked(p, marked)):
        assert measure(nothing)[0] == 0


def positional(pattern: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Values (row, layer, head) of the positional role, in two chunks."""
    reader = PositionalReader(len(pattern))
    for which in (0, 1):
        for rows in (slice(0, 3), slice(3, len(pattern))):
            reader.add(which, rows, pattern[rows], seen[None, None, None])
    return reader.result(1e-7)[0]


def test_position_explains_all_of_a_fixed_pattern_and_nothing_of_a_sink() -> None:
    rng, seen = np.random.default_rng(3), np.tri(16, dtype=bool)
    fixed = np.broadcast_to(np.eye(16, k=-1) + np.eye(16) * (np.arange(16) == 0), (8, 1, 1, 16, 16))
    first = np.zeros((8, 1, 1, 16, 16))
    first[..., 0] = 1
    scores = np.exp(rng.normal(size=(8, 1, 1, 16, 16)) * 2) * seen
    by_content = scores / scores.sum(-1, keepdims=True)
    # The token before, and in row 1 that is the first: this row's variance is the sink's and not the position's.
    share = np.sum(centred(fixed[:1], seen, 1) ** 2) / np.sum(centred(fixed[:1], seen, 0) ** 2)
    assert positional(fixed, seen).mean() == pytest.approx(share) and share > 0.9
    assert positional(first, seen).mean() == pytest.approx(0, abs=1e-12)
    assert abs(positional(by_content, seen).mean()) < 0.1
    assert (positional(np.broadcast_to(even(16)[0], (8, 1, 1, 16, 16)), seen) == 0).all(), "even attention has no variance"


def test_position_is_estimated_without_bias_from_few_texts() -> None:
    rng, seen = np.random.default_rng(4), np.tri(12, dtype=bool)
    shared, own = rng.normal(size=(12, 12)), rng.normal(size=(4, 1, 500, 12, 12))
    pattern = (shared + own) * seen
    whole = np.array([np.sum(centred((shared + one) * seen, seen, 0) ** 2) for one in rng.normal(size=(2000, 12, 12))]).mean()
    true = np.sum(centred(shared * seen, seen, 1) ** 2) / whole
    assert positional(pattern, seen).mean() == pytest.approx(true, abs=0.01), "a mean over 4 texts would give 0.6 in place of 0.5"


def test_chance_is_reached_as_often_as_it_says() -> None:
    rng, length, heads, texts = np.random.default_rng(5), 32, 400, 16
    seen = np.tri(length, dtype=bool)
    scores = np.exp(1.5 * rng.normal(size=(texts, 1, heads, length, length))) * seen
    pattern = scores / scores.sum(-1, keepdims=True)
    marked, order = rng.random((texts, 1, 1, length)) < 0.15, rng.random((texts, 1, 1, length, length))
    shuffled = patterns.within_rows(pattern, order, seen)
    pairs = {
        "previous": patterns.at_targets(pattern, previous_targets(length), seen),
        "induction": patterns.at_targets(pattern, repeat_targets(length, 8, 0, after=1), seen),
        "sink": patterns.sink(pattern, seen),
        "span": patterns.span(pattern, seen),
        "locality": patterns.locality(pattern, 10, seen),
        "delimiter": patterns.on_marked(pattern, marked, seen),
        "receiver": tuple(patterns.kurtosis(patterns.received(one, seen)) for one in (pattern, shuffled)),
        "positional": (positional(pattern, seen), 0.0),
    }
    for name, (value, control) in pairs.items():
        p = stats.ttest_1samp((value - control)[:, 0], 0, alternative="greater").pvalue
        # Four standard errors of a share of 0.05 among 400 heads.
        assert (p <= 0.05).mean() <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / heads), name
        if name != "positional":  # exact where nothing is estimated from the texts
            assert (p <= 0.05).mean() >= 0.05 - 4 * np.sqrt(0.05 * 0.95 / heads), name


def test_delimiters_are_punctuation_and_line_breaks() -> None:
    assert all(map(is_delimiter, [".", ", ", "?!", "\n", " \n\n", '"', "…", "(", "--"]))
    assert not any(map(is_delimiter, ["", " ", "a", "a.", "1", "+", "$", "\t"]))
