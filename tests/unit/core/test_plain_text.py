"""Text on its way to a terminal or a spreadsheet."""

from __future__ import annotations

import pytest

from circuitlab.cli.output import print_table, print_text
from circuitlab.core.plain_text import for_spreadsheet, for_terminal


@pytest.mark.parametrize("text", ["\x1b[31mred", "bell\x07", "back\x08", "\u202eright to left", "\x9b2J"])
def test_no_control_character_reaches_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_text(text)
    print_table(["title"], [[text]])
    out = capsys.readouterr().out
    assert text not in out and out.replace("\n", "").isprintable()


def test_line_ends_and_tabs_stay() -> None:
    assert for_terminal("one\n\ttwo \N{GREEK SMALL LETTER ALPHA}") == "one\n\ttwo \N{GREEK SMALL LETTER ALPHA}"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_a_spreadsheet_would_run_is_quoted(cell: str) -> None:
    assert for_spreadsheet(cell) == "'" + cell


@pytest.mark.parametrize("cell", [-1.5, -1, None, "a9.h6", "", "1+1"])
def test_numbers_and_other_text_stay(cell: object) -> None:
    assert for_spreadsheet(cell) == cell


def test_no_table_of_a_study_holds_a_formula() -> None:
    import pandas as pd

    from circuitlab.studies import tables
    from circuitlab.studies.report import analyses
    from circuitlab.studies.types import Table

    assert tables._csv(pd.DataFrame({"task": ["=1+1", "@x"], "mean": [-1.5, 2.0]})) == "task,mean\n'=1+1,-1.5\n'@x,2\n"
    rows = (("=cmd()", {"mean": -0.5, "low": -1.0, "high": 0.0}), ("+x", {"mean": 1.0, "low": 0.5, "high": 2.0}))
    assert analyses._csv(Table(("Task", "Mean"), rows)).splitlines()[1:] == ["'=cmd(),-0.5,-1,0", "'+x,1,0.5,2"]
