"""One-digit sums, differences and products, with worked examples before the question."""

from __future__ import annotations

from collections.abc import Iterator

from circuitlab.core.errors import TaskFileError, UnknownNameError
from circuitlab.tasks.sources.context import Context
from circuitlab.tasks.spec import SumSource
from circuitlab.tasks.templates import Row

__all__ = ["rows"]

_OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
_LARGEST_DIGIT = 9


def rows(source: SumSource, context: Context) -> Iterator[Row]:
    """Draw a problem, the same problem with another second operand and result, and worked examples of its operation other than these two.

    Raises
    ------
    UnknownNameError
        If an operation is not one of ``+``, ``-`` and ``*``.
    TaskFileError
        If there are not so many different worked examples.
    """
    if unknown := [sign for sign in source.operation or " " if sign not in _OPERATIONS]:
        raise UnknownNameError(f"operation in task {context.task!r}", unknown[0], _OPERATIONS)
    tables = {sign: _problems(sign) for sign in source.operation}
    most = min(map(len, tables.values())) - 2  # the question and its changed form are no examples
    if not 0 <= source.shots <= most:
        what = f"shots = {source.shots} in task {context.task!r} is no number of worked examples of {source.operation!r}."
        raise TaskFileError(what, f"Ask for 0 to {most}.")
    while True:
        # With one operation no random number is drawn for it, so that such tasks keep the pairs they had before there were several.
        sign = source.operation if len(tables) == 1 else context.random.choice(source.operation)
        problems = tables[sign]
        a, b, result = context.random.choice(problems)
        others = [(q, r) for p, q, r in problems if p == a and r != result]
        if not others:
            continue
        b2, result2 = context.random.choice(others)
        free = [problem for problem in problems if problem[:2] not in {(a, b), (a, b2)}]
        shots = context.random.sample(free, source.shots)
        row: dict[str, str | list[str]] = {"a": str(a), "b": str(b), "result": str(result), "b2": str(b2), "result2": str(result2)}
        row["sign"] = sign
        for i, shot in enumerate(shots):
            row |= {f"s{i}{key}": str(value) for key, value in zip("abr", shot, strict=True)}
        row["digits"] = [str(d) for d in range(10) if d != result]
        yield row


def _problems(sign: str) -> list[tuple[int, int, int]]:
    """Operands and result of every problem of an operation whose result has one digit."""
    function = _OPERATIONS[sign]
    digits = range(2 if sign == "*" else 1, 10)
    problems = [(a, b, function(a, b)) for a in digits for b in digits if 0 <= function(a, b) <= _LARGEST_DIGIT]
    if sign == "*":
        problems += [(a, 1, a) for a in range(1, 10)] + [(1, b, b) for b in range(2, 10)]
    return problems
