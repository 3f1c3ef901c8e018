"""Parameters from a command line or a study file: every odd value of every parameter is taken or refused by name, never a raw error."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from circuitlab.core.errors import BadParameterError, CircuitlabError
from circuitlab.core.parameters import checked_parameters
from circuitlab.methods import get_method, method_classes
from circuitlab.methods.roles import get_role, role_classes

ODD: list[Any] = [None, [], {}, {"a": 1}, "x", "", 1e999, float("nan"), True, -1, 0, 2.5, 10**30, [None], [1, "a"], "\x00", [[]]]
EVERY = [(get_method, cls) for cls in method_classes().values()] + [(get_role, cls) for cls in role_classes().values()]


@pytest.mark.parametrize(("get", "cls"), EVERY, ids=[cls.name for _, cls in EVERY])
def test_odd_values_are_taken_or_refused_by_name(get: Any, cls: type[Any]) -> None:
    for field in dataclasses.fields(cls):
        for value in ODD:
            try:
                built = get(cls.name, {field.name: value})
            except CircuitlabError:
                continue
            kept = msgspec.to_builtins(getattr(built, field.name))
            assert kept == (float(value) if isinstance(kept, float) else value) or kept in ((value,), _tuples(value)), (
                field.name,
                value,
                kept,
            )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@pytest.mark.parametrize("name", [name for name, cls in method_classes().items() if "pairs_per_pass" in cls.__dataclass_fields__])
@pytest.mark.parametrize("value", [0, -1, True, 2.5])
def test_a_pass_of_no_pairs_is_refused(name: str, value: Any) -> None:
    with pytest.raises(BadParameterError, match="pairs_per_pass"):
        get_method(name, {"pairs_per_pass": value})


@dataclasses.dataclass(frozen=True)
class Made:
    names: tuple[str, ...] = ()
    share: float = 0.5
    n: int = 1
    yes: bool = False


@pytest.mark.parametrize(
    ("params", "wanted"),
    [({"names": "one"}, "one"), ({"names": ["one", "two"]}, ("one", "two")), ({"share": 1}, 1.0), ({"n": 3}, 3), ({"yes": True}, True)],
)
def test_values_of_the_declared_type_are_taken(params: dict[str, Any], wanted: Any) -> None:
    assert list(checked_parameters(Made, "made", params).values()) == [wanted]


@pytest.mark.parametrize(
    "params", [{"share": True}, {"n": True}, {"n": 2.5}, {"yes": 1}, {"yes": "false"}, {"names": [1]}, {"share": None}]
)
def test_values_of_another_type_are_refused_with_the_value(params: dict[str, Any]) -> None:
    ((name, value),) = params.items()
    with pytest.raises(BadParameterError, match=name) as refused:
        checked_parameters(Made, "made", params)
    assert repr(value) in str(refused.value)
