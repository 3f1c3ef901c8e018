"""The top-level names: what `import circuitlab as cl` offers."""

from __future__ import annotations

import pytest

import circuitlab
from circuitlab.core.errors import UnknownNameError


@pytest.mark.parametrize("name", circuitlab.__all__)
def test_every_name_is_found(name) -> None:
    assert getattr(circuitlab, name) is not None
    assert name in dir(circuitlab)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="load_modle"):
        circuitlab.load_modle  # noqa: B018


def test_the_names_of_the_design_are_there() -> None:
    design = (
        "load_task load_model score check_task find_circuit evaluate compare bench methods metrics figures Task Circuit Study cite errors"
    )
    assert set(design.split()) <= set(circuitlab.__all__)


def test_cite_gives_bibtex_of_a_task_and_of_a_method() -> None:
    assert "Interpretability in the Wild" in circuitlab.cite("ioi")
    assert circuitlab.cite("activation_patching").startswith("@misc{")
    with pytest.raises(UnknownNameError, match="Did you mean 'ioi'"):
        circuitlab.cite("ioii")
