"""The error tree: what happened, what to do next, and the near name."""

from __future__ import annotations

import pickle

import pytest

import circuitlab.core.errors as tree
from circuitlab.core.errors import CircuitlabError, IncompatibleError, UnknownNameError


def test_every_error_is_a_circuitlab_error():
    assert all(issubclass(getattr(tree, name), CircuitlabError) for name in tree.__all__)


def test_message_joins_what_and_fix():
    error = IncompatibleError("Two models.", "Use one.")
    assert (str(error), error.what, error.fix) == ("Two models. Use one.", "Two models.", "Use one.")
    assert str(CircuitlabError("Alone.")) == "Alone."


@pytest.mark.parametrize(("name", "near"), [("ioo", "ioi"), ("IOI", "ioi"), ("colored_object", "colored_objects")])
def test_unknown_name_suggests_the_near_one(name, near):
    error = UnknownNameError("task", name, ["ioi", "colored_objects", "docstring"])
    assert f"Did you mean '{near}'?" in str(error)
    assert "Unknown task" in error.what


def test_unknown_name_without_anything_near():
    message = str(UnknownNameError("task", "zzzz", ["ioi"]))
    assert "Did you mean" not in message
    assert message.endswith("Known: ioi.")
    assert "(none)" in str(UnknownNameError("task", "x", []))


def test_long_lists_are_cut():
    error = UnknownNameError("node", "q", [f"n{i:03}" for i in range(50)])
    assert "n019, ..." in str(error)
    assert "n020" not in str(error)


def test_errors_cross_a_process_boundary():
    plain = pickle.loads(pickle.dumps(IncompatibleError("a.", "b.")))
    assert (type(plain), plain.what, plain.fix) == (IncompatibleError, "a.", "b.")
    named = pickle.loads(pickle.dumps(UnknownNameError("task", "ioo", ["ioi"])))
    assert str(named) == str(UnknownNameError("task", "ioo", ["ioi"]))
