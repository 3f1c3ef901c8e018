"""A chain as in indirect object identification: duplicate token, inhibition, mover and negative mover."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitlab.core.nodes import Head
from circuitlab.model.toy.planted import BACKGROUND, PlantedModel, Prompt, draw, edges
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Form, Wiring

if TYPE_CHECKING:
    import torch

__all__ = ["names_chain"]

_END, _BLANK, _FIRST, _NAMES = 0, 1, 2, 6
_READOUT = 4.0


def names_chain(form: Form = "gqa", background: float = BACKGROUND) -> PlantedModel:
    """``A1 B2 ... A3 -> B``: which of two names was not repeated (after Wang et al. 2022, arXiv:2211.00593, by the positional signal).

    Each name has three tokens: as the first name, as the second, and as the repeated one. ``a0.h0`` (duplicate token) attends from the
    repeated name to its earlier occurrence and writes whether that was the first or the second name. ``a1.h2`` (inhibition) moves this to
    the end. ``a2.h0`` (mover) attends from the end to the names, except the inhibited one, and copies. ``a2.h1`` (negative mover) attends
    alike and writes two fifths as much with the opposite sign; in the grouped-query form these two share keys and values. In the corrupt
    prompt the other name is repeated.
    """
    wiring = Wiring(form, 3, _FIRST + 3 * _NAMES)
    name, slot, is_third, is_end = wiring.block(_NAMES), wiring.block(2), wiring.block(), wiring.block()
    seen, inhibited, out = wiring.block(2), wiring.block(2), wiring.block(_NAMES)
    wiring.embed[_END, is_end[0]] = 1.0
    for i in range(_NAMES):
        for variant, flag in enumerate([*slot, *is_third]):
            wiring.embed[_token(i, variant), name[i]] = 1.0
            wiring.embed[_token(i, variant), flag] = 1.0
        wiring.unembed[_token(i, 0), out[i]] = _READOUT
    duplicate, inhibition, mover, negative = Head(0, 0), Head(1, 2), Head(2, 0), Head(2, 1)
    wiring.match(0, duplicate.head, name, name, 18.0)
    wiring.carry(0, duplicate.head, slot, seen, 2.0)  # the repeated name attends to itself, too, which takes half the weight
    wiring.match(1, inhibition.head, is_end, is_third, 16.0)
    wiring.carry(1, inhibition.head, seen, inhibited, 1.0)
    for head, gain in ((mover, 1.0), (negative, -0.4)):
        wiring.match(2, head.head, [*is_end, *is_end], slot, 20.0)
        wiring.match(2, head.head, inhibited, slot, -20.0)
        wiring.carry(2, head.head, name, out, gain)
    wiring.background(background)
    names = ["embed->a0.h0<q>", f"a0.h0->a1.kv{wiring.kv_head(2)}<v>", "a1.h2->a2.h0<q>", "a1.h2->a2.h1<q>"]
    return PlantedModel(
        circuit="names",
        form=form,
        model=serve(wiring, f"names-{form}"),
        helpers=frozenset({duplicate, inhibition, mover}),
        hinderers=frozenset({negative}),
        edges=edges([*names, "a2.h0->logits", "a2.h1->logits"]),
        positions={duplicate: ("REPEATED",), inhibition: ("END",), mover: ("END",), negative: ("END",)},
        prompt=_prompt,
        candidates=tuple(_token(i, 0) for i in range(_NAMES)),
    )


def _token(name: int, variant: int) -> int:
    return _FIRST + variant * _NAMES + name


def _prompt(i: int, generator: torch.Generator) -> Prompt:
    pair = draw(generator, _NAMES, 2)
    again = draw(generator, 2, 1)[0]
    shift = i % 2
    clean = [_BLANK] * 6 + [_END]
    clean[1 + shift], clean[3] = _token(pair[0], 0), _token(pair[1], 1)
    corrupt = list(clean)
    clean[4 + shift], corrupt[4 + shift] = _token(pair[again], 2), _token(pair[1 - again], 2)
    marks = {"NAME1": 1 + shift, "NAME2": 3, "REPEATED": 4 + shift}
    return Prompt(clean, corrupt, _token(pair[1 - again], 0), _token(pair[again], 0), marks)
