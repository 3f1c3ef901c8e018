"""The page of families says what the code does; `make test-every` asks every family again, `make test` four and an eighth of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from circuitlab.testing.families import ALL_FAMILIES
from circuitlab.testing.model_map import family_rows, model_map

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.by_turns(8)
@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_the_page_says_how_a_family_is_served(family: str) -> None:
    written = family_rows(PAGE.read_text(encoding="utf-8"), family)
    assert len(written) >= 2, "run: python -m circuitlab.testing.model_map --write docs/models.md"
    assert written == family_rows(model_map([family]), family)
