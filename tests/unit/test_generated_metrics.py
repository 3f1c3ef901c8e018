"""Exact match and containment of generated text."""

from __future__ import annotations

import subprocess
import sys

import pytest

from circuitlab.core.errors import BadParameterError
from circuitlab.metrics import contains, exact_match


@pytest.mark.parametrize(
    ("text", "expected", "same"),
    [
        (" Mary", "Mary", True),
        ("mary\n", "MARY", True),
        ("two  \t words", "two words", True),
        ("Mary.", "Mary", False),
        ("", "Mary", False),
        ("ﬁne", "fine", True),
        ("STRASSE", "straße", True),
    ],
)
def test_white_space_and_case_do_not_count_and_punctuation_does(text: str, expected: str, same: bool) -> None:
    assert exact_match([text], [expected]) == [same]


def test_case_counts_where_asked() -> None:
    assert exact_match(["mary", "Mary"], ["Mary", "Mary"], case=True) == [False, True]
    assert contains(["to mary", "to Mary"], ["Mary", "Mary"], case=True) == [False, True]


def test_one_of_several_alternatives_is_enough() -> None:
    assert exact_match(["Paul", "Anne"], [["John", "Paul"], ["John", "Paul"]]) == [True, False]


def test_whole_words_where_asked() -> None:
    assert contains(["other", "the other", "he, she"], ["the", "the", "he"]) == [True, True, True]
    assert contains(["other", "the other", "he, she"], ["the", "the", "he"], words=True) == [False, True, True]
    assert contains(["it costs $5.50 now"], ["$5.50"], words=True) == [True]
    assert contains(["1x5"], ["1.5"], words=True) == [False], "an answer is no regular expression"


@pytest.mark.parametrize(
    ("texts", "expected"), [(["a"], []), (["a"], [""]), (["a"], [[]]), (["a"], [["b", " "]]), ("ab", ["a", "b"]), (["a"], "a")]
)
def test_what_cannot_be_compared_is_refused(texts, expected) -> None:
    for metric in (exact_match, contains):
        with pytest.raises(BadParameterError):
            metric(texts, expected)


def test_no_torch_is_imported() -> None:
    code = "import sys, circuitlab.metrics; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
