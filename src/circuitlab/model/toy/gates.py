"""Logic between heads: two that back up each other (OR), and one that blocks another (AND-NOT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitlab.core.nodes import Head, Mlp
from circuitlab.model.toy.planted import BACKGROUND, PlantedModel, Prompt, draw, edges
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Form, Wiring

if TYPE_CHECKING:
    import torch

__all__ = ["backup_pair", "blocker"]

_BLANK, _QUERY, _START, _STOP, _FIRST, _CONTENTS = 0, 1, 2, 3, 4, 6
_READOUT = 4.0
_STEEP, _LOW, _HIGH = 80.0, 2.65, 2.85
"""The MLP's ramp: it begins above 2 (one condition alone) and ends before 3 (both conditions)."""

_BACKED_UP = (
    "Without one head of the pair the other opens the same gate, and in the corrupt prompt there is nothing for an open gate to pass "
    "on: swapping either head alone changes nothing in either direction, swapping both does."
)


def _ends(wiring: Wiring) -> tuple[range, range, range, range]:
    """Features of content tokens (identity, flag), of the query, and of the output."""
    content, is_content, is_query, out = wiring.block(_CONTENTS), wiring.block(), wiring.block(), wiring.block(_CONTENTS)
    wiring.embed[_QUERY, is_query[0]] = 1.0
    for i in range(_CONTENTS):
        wiring.embed[_FIRST + i, content[i]] = 1.0
        wiring.embed[_FIRST + i, is_content[0]] = 1.0
        wiring.unembed[_FIRST + i, out[i]] = _READOUT
    return content, is_content, is_query, out


def backup_pair(form: Form = "gqa", background: float = BACKGROUND) -> PlantedModel:
    """Two heads of which one suffices: OR.

    ``a0.h0`` and ``a0.h2`` write to the query token that the prompt contains a content token; ``a0.h3`` copies its identity. ``m1``
    writes the answer if the identity is there *and* at least one of the two heads has written: its ramp saturates as soon as one has.
    The corrupt prompt contains no content token.
    """
    # Much ballast: removing one head of the pair must not change the scale of a norm either.
    wiring = Wiring(form, 2, _FIRST + _CONTENTS, ballast=100.0)
    content, is_content, is_query, out = _ends(wiring)
    copied, gate = wiring.block(_CONTENTS), wiring.block()
    pair, mover = (Head(0, 0), Head(0, 2)), Head(0, 3)
    for head in (*pair, mover):
        wiring.match(0, head.head, is_query, is_content, 14.0)
    for head in pair:
        wiring.carry(0, head.head, is_content, gate, 1.0)
    wiring.carry(0, mover.head, content, copied, 1.0)
    plateau = _STEEP * (_HIGH - _LOW)
    for i in range(_CONTENTS):
        reads = {copied[i]: 2.0 * _STEEP, gate[0]: _STEEP}
        wiring.unit(1, reads, _STEEP * _LOW, out[i], 1.0 / plateau)
        wiring.unit(1, reads, _STEEP * _HIGH, out[i], -1.0 / plateau)
    wiring.background(background)
    shared = sorted({wiring.kv_head(head.head) for head in (*pair, mover)})
    names = [f"embed->a0.kv{kv}<{port}>" for kv in shared for port in "kv"] + [f"{head}->m1" for head in (*pair, mover)]
    return PlantedModel(
        circuit="backup",
        form=form,
        model=serve(wiring, f"backup-{form}"),
        helpers=frozenset({*pair, mover, Mlp(1)}),
        hinderers=frozenset(),
        edges=edges([*names, "m1->logits"]),
        positions=dict.fromkeys((*pair, mover, Mlp(1)), ("END",)),
        prompt=_present,
        candidates=tuple(range(_FIRST, _FIRST + _CONTENTS)),
        visible=False,
        reason=_BACKED_UP,
    )


def _present(i: int, generator: torch.Generator) -> Prompt:
    first, second = (_FIRST + number for number in draw(generator, _CONTENTS, 2))
    at = 1 + i % 3
    corrupt = [_BLANK] * 5 + [_QUERY]
    clean = list(corrupt)
    clean[at] = first
    return Prompt(clean, corrupt, first, second, {"CONTENT": at})


def blocker(form: Form = "gqa", background: float = BACKGROUND) -> PlantedModel:
    """A head that blocks another: AND-NOT.

    ``a1.h0`` copies the content token to its logit, but attends to the start token instead if ``a0.h1`` has attended to a stop token. The
    clean prompt contains no stop token, the corrupt prompt does. The blocker's output in the clean prompt (nothing) helps, so its score
    is positive.
    """
    wiring = Wiring(form, 2, _FIRST + _CONTENTS)
    content, is_content, is_query, out = _ends(wiring)
    is_stop, is_start, stopped = (wiring.block() for _ in range(3))
    wiring.embed[_STOP, is_stop[0]] = 1.0
    wiring.embed[_START, is_start[0]] = 1.0
    stop, mover = Head(0, 1), Head(1, 0)
    wiring.match(0, stop.head, is_query, is_stop, 14.0)
    wiring.carry(0, stop.head, is_stop, stopped, 1.0)
    wiring.match(1, mover.head, is_query, is_content, 16.0)
    wiring.match(1, mover.head, is_query, is_start, 8.0)
    wiring.match(1, mover.head, stopped, is_content, -32.0)
    wiring.carry(1, mover.head, content, out, 1.0)
    wiring.background(background)
    kv = wiring.kv_head(stop.head)
    return PlantedModel(
        circuit="blocker",
        form=form,
        model=serve(wiring, f"blocker-{form}"),
        helpers=frozenset({stop, mover}),
        hinderers=frozenset(),
        edges=edges([f"embed->a0.kv{kv}<k>", f"embed->a0.kv{kv}<v>", f"{stop}->{mover}<q>", f"{mover}->logits"]),
        positions={stop: ("END",), mover: ("END",)},
        prompt=_stopped,
        candidates=tuple(range(_FIRST, _FIRST + _CONTENTS)),
    )


def _stopped(i: int, generator: torch.Generator) -> Prompt:
    first, second = (_FIRST + number for number in draw(generator, _CONTENTS, 2))
    at, stop_at = 1 + i % 2, 3 + i % 3
    clean = [_START, *[_BLANK] * 5, _QUERY]
    clean[at] = first
    corrupt = list(clean)
    corrupt[stop_at] = _STOP
    return Prompt(clean, corrupt, first, second, {"CONTENT": at, "STOP": stop_at})
