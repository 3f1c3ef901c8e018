"""Methods are found by name, with near-name suggestions."""

from __future__ import annotations

import pytest

from circuitlab.core.errors import UnknownNameError
from circuitlab.execute.contract import Method, effective_params
from circuitlab.methods import get_method, list_methods, method_classes


def test_every_method_is_listed_and_complete() -> None:
    assert {"activation_patching", "logit_attribution"} <= set(list_methods())
    for name, cls in method_classes().items():
        method = get_method(name)
        assert isinstance(method, Method)
        assert cls.name == name
        assert cls.estimand
        assert cls.cite


def test_parameters_reach_the_method_and_lists_become_tuples() -> None:
    method = get_method("activation_patching", {"parts": ["mlps"], "direction": "noising"})
    assert effective_params(method) == {"direction": "noising", "parts": ["mlps"], "site": "z", "positions": ["all"], "precision": "full"}


@pytest.mark.parametrize(
    ("name", "params", "hint"),
    [
        ("activation_patchin", {}, "Did you mean 'activation_patching'"),
        ("activation_patching", {"directon": "noising"}, "Did you mean 'direction'"),
    ],
)
def test_unknown_names_suggest_the_near_one(name: str, params: dict, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=hint):
        get_method(name, params)


@pytest.mark.parametrize("name", [name for name, cls in method_classes().items() if "parts" in cls.__dataclass_fields__])
def test_a_text_is_taken_where_several_are_meant(name) -> None:
    cls = method_classes()[name]
    assert cls(parts="heads") == cls(parts=["heads"]) == cls(parts=("heads",)) == get_method(name, {"parts": "heads"})
