"""Every key that code names has an entry, and what can be asked for gives BibTeX."""

from __future__ import annotations

import pytest

from circuitlab.citations import CITATIONS, STATISTICS, cite, keys_for
from circuitlab.methods import method_classes
from circuitlab.methods.roles import role_classes
from circuitlab.studies.analyses import analysis_classes


def named_keys():
    yield from (("statistics", key) for keys in STATISTICS.values() for key in keys)
    yield from ((name, key) for name, one in analysis_classes().items() for key in one.cite)
    yield from ((name, key) for name, one in method_classes().items() for key in one.cite)
    yield from ((name, key) for name, one in role_classes().items() for key in one.cite)


def test_every_named_key_has_an_entry() -> None:
    assert {(where, key) for where, key in named_keys() if key not in CITATIONS} == set()


@pytest.mark.parametrize("name", ["compare", "logit_lens", "stability", "why_attends"])
def test_statistics_can_be_cited(name) -> None:
    assert cite(name).count("@misc{") == len(keys_for(name)) == len(STATISTICS[name])


def test_entries_are_whole() -> None:
    for key, (title, authors, year, venue) in CITATIONS.items():
        assert title and authors and venue and year.isdigit() and year in key, key
