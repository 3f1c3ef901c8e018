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
