"""Induction (a previous-token head under an induction head) and succession (an MLP under a successor head)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitlab.core.nodes import Head, Mlp
from circuitlab.model.toy.planted import BACKGROUND, PlantedModel, Prompt, draw, edges
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Form, Wiring

if TYPE_CHECKING:
    import torch

__all__ = ["CONTENTS", "LENGTH", "PLACES", "induction", "repeat_prompt", "successor"]

CONTENTS, LENGTH = 8, 6
"""Number of content tokens, and of tokens before the last one in an induction prompt."""
PLACES = ((1, 3), (1, 4), (2, 4), (3, 1), (4, 1), (4, 2))
"""Positions of the repeated token and its rival: neither first, nor adjacent, each with a token after it."""
_BLANK, _QUERY, _FIRST = 0, 1, 2
_READOUT = 4.0
_STEEP = 8.0


def induction(form: Form = "gqa", background: float = BACKGROUND) -> PlantedModel:
    """``... A B ... C D ... A -> B`` (Elhage et al. 2021; Olsson et al. 2022): K-composition.

    ``a0.h1`` writes the previous token to every position. ``a1.h2`` attends from the last token to the position whose previous token is
    the same, and copies the token there. In the corrupt prompt A and C are exchanged: the last token is the same, but the token after A
    is now D.
    """
    wiring = Wiring(form, 2, CONTENTS)
    token, before, out = (wiring.block(CONTENTS) for _ in range(3))
    for i in range(CONTENTS):
        wiring.embed[i, token[i]] = 1.0
        wiring.unembed[i, out[i]] = _READOUT
    previous, inductor = Head(0, 1), Head(1, 2)
    wiring.previous(0, previous.head, 30.0)
    wiring.carry(0, previous.head, token, before, 1.0)
    wiring.match(1, inductor.head, token, before, 16.0)
    wiring.carry(1, inductor.head, token, out, 1.0)
    wiring.background(background)
    first, second = (wiring.kv_head(head.head) for head in (previous, inductor))
    return PlantedModel(
        circuit="induction",
        form=form,
        model=serve(wiring, f"induction-{form}"),
        helpers=frozenset({previous, inductor}),
        hinderers=frozenset(),
        edges=edges([f"embed->a0.kv{first}<v>", f"{previous}->a1.kv{second}<k>", f"{inductor}->logits"]),
        positions={previous: ("AFTER", "AFTER_RIVAL"), inductor: ("END",)},
        prompt=repeat_prompt,
        candidates=tuple(range(CONTENTS)),
    )


def repeat_prompt(_i: int, generator: torch.Generator) -> Prompt:
    """A pair of induction prompts: distinct tokens, one of them repeated at the end; the corrupt prompt exchanges it with its rival."""
    row = draw(generator, CONTENTS, LENGTH)
    at, rival = PLACES[draw(generator, len(PLACES), 1)[0]]
    swapped = list(row)
    swapped[at], swapped[rival] = row[rival], row[at]
    marks = {"FIRST": at, "AFTER": at + 1, "RIVAL": rival, "AFTER_RIVAL": rival + 1}
    return Prompt([*row, row[at]], [*swapped, row[at]], row[at + 1], row[rival + 1], marks)


def successor(form: Form = "gqa", background: float = BACKGROUND) -> PlantedModel:
    """A successor head (Gould et al. 2024): the first MLP maps tokens to numbers, and ``a1.h1`` maps a number to the next one.

    The content token is a number; the answer is the next one, modulo eight. The corrupt prompt contains another number.
    """
    wiring = Wiring(form, 2, _FIRST + CONTENTS)
    token, is_content, is_query = wiring.block(CONTENTS), wiring.block(), wiring.block()
    number, out = wiring.block(CONTENTS), wiring.block(CONTENTS)
    wiring.embed[_QUERY, is_query[0]] = 1.0
    for i in range(CONTENTS):
        wiring.embed[_FIRST + i, token[i]] = 1.0
        wiring.embed[_FIRST + i, is_content[0]] = 1.0
        wiring.unembed[_FIRST + i, out[i]] = _READOUT
        wiring.unit(0, {token[i]: _STEEP}, 0.0, number[i], 1.0 / _STEEP)
    head = Head(1, 1)
    wiring.match(1, head.head, is_query, is_content, 14.0)
    wiring.carry(1, head.head, number, [*out[1:], out[0]], 1.0)
    wiring.background(background)
    kv = wiring.kv_head(head.head)
    return PlantedModel(
        circuit="successor",
        form=form,
        model=serve(wiring, f"successor-{form}"),
        helpers=frozenset({Mlp(0), head}),
        hinderers=frozenset(),
        edges=edges(["embed->m0", f"m0->a1.kv{kv}<v>", f"{head}->logits"]),
        positions={Mlp(0): ("CONTENT",), head: ("END",)},
        prompt=_count,
        candidates=tuple(range(_FIRST, _FIRST + CONTENTS)),
    )


def _count(i: int, generator: torch.Generator) -> Prompt:
    first, second = draw(generator, CONTENTS, 2)
    at = 1 + i % 3
    clean = [_BLANK] * 5 + [_QUERY]
    corrupt = list(clean)
    clean[at], corrupt[at] = _FIRST + first, _FIRST + second
    answer, foil = (_FIRST + (number + 1) % CONTENTS for number in (first, second))
    return Prompt(clean, corrupt, answer, foil, {"CONTENT": at})
