"""Copy heads: alone, beside a loud head whose output nothing reads, and in a group that shares keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlab.core.nodes import Head
from circuitlab.model.toy.planted import BACKGROUND, PlantedModel, Prompt, draw, edges
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Form, Wiring

if TYPE_CHECKING:
    import torch

__all__ = ["copy_head", "loud_distractor", "shared_group"]

_BLANK, _QUERY, _FIRST, _CONTENTS = 0, 1, 2, 8
_READOUT = 4.0


@dataclass(frozen=True, eq=False)
class _CopyModel:
    """The wiring of a copying model, with the features that its heads use."""

    wiring: Wiring
    content: range
    is_content: range
    is_query: range
    out: range
    unread: range

    @classmethod
    def of(cls, form: Form, ballast: float = 8.0) -> _CopyModel:
        wiring = Wiring(form, 2, _FIRST + _CONTENTS, ballast=ballast)
        content, is_content, is_query = wiring.block(_CONTENTS), wiring.block(), wiring.block()
        model = cls(wiring, content, is_content, is_query, wiring.block(_CONTENTS), wiring.block(_CONTENTS))
        for i in range(_CONTENTS):
            wiring.embed[_FIRST + i, content[i]] = 1.0
            wiring.embed[_FIRST + i, is_content[0]] = 1.0
            wiring.unembed[_FIRST + i, model.out[i]] = _READOUT
        wiring.embed[_QUERY, is_query[0]] = 1.0
        return model

    def copy(self, head: Head, gain: float, *, unread: bool = False, score: float = 14.0) -> None:
        """Wire a head to attend from the query token to the content token and write its identity."""
        self.wiring.match(head.layer, head.head, self.is_query, self.is_content, score)
        self.wiring.carry(head.layer, head.head, self.content, self.unread if unread else self.out, gain)


def _prompt(i: int, generator: torch.Generator) -> Prompt:
    """Blanks with one content token, and the query token at the end; the corrupt prompt has another content token."""
    first, second = (_FIRST + number for number in draw(generator, _CONTENTS, 2))
    at = 1 + i % 3
    clean = [_BLANK] * 5 + [_QUERY]
    corrupt = list(clean)
    clean[at], corrupt[at] = first, second
    return Prompt(clean, corrupt, first, second, {"CONTENT": at})


def _planted(model: _CopyModel, circuit: str, helper: Head, hinderer: Head | None, distractor: Head) -> PlantedModel:
    wiring = model.wiring
    writers = [helper] if hinderer is None else [helper, hinderer]
    names = [f"embed->a{head.layer}.kv{wiring.kv_head(head.head)}<v>" for head in writers] + [f"{head}->logits" for head in writers]
    return PlantedModel(
        circuit=circuit,
        form=wiring.form,
        model=serve(wiring, f"{circuit}-{wiring.form}"),
        helpers=frozenset({helper}),
        hinderers=frozenset(writers[1:]),
        distractors=frozenset({distractor}),
        edges=edges(names),
        positions=dict.fromkeys(writers, ("END",)),
        prompt=_prompt,
        candidates=tuple(range(_FIRST, _FIRST + _CONTENTS)),
    )


def copy_head(form: Form = "gqa", background: float = BACKGROUND) -> PlantedModel:
    """A copy head, a head that writes two fifths as much with the opposite sign, and a head whose output nothing reads.

    Every wired head attends from the query token to the content token: ``a1.h1`` copies the content token's identity to its logit,
    ``a1.h2`` hinders it, and ``a0.h0`` writes to features that no later part reads.
    """
    model = _CopyModel.of(form)
    helper, hinderer, distractor = Head(1, 1), Head(1, 2), Head(0, 0)
    model.copy(helper, 1.0)
    model.copy(hinderer, -0.4)
    model.copy(distractor, 0.8, unread=True)
    model.wiring.background(background)
    return _planted(model, "copy", helper, hinderer, distractor)


def loud_distractor(form: Form = "gqa", background: float = BACKGROUND) -> PlantedModel:
    """A copy head and a hinderer beside ``a1.h3``, which attends alike and writes eight times as much to features nothing reads.

    There is little ballast, so the loud head dominates the scale of the final norm. Its output has the same size in both prompts, so
    that swapping it changes nothing. To first order it does change the logits, because the change has a component along the stream.
    """
    model = _CopyModel.of(form, ballast=2.0)
    helper, hinderer, distractor = Head(1, 1), Head(1, 2), Head(1, 3)
    model.copy(helper, 1.0, score=24.0)
    model.copy(hinderer, -0.25, score=24.0)
    model.copy(distractor, 8.0, unread=True, score=24.0)
    model.wiring.background(background)
    return _planted(model, "distractor", helper, hinderer, distractor)


def shared_group(form: Form = "gqa", background: float = BACKGROUND) -> PlantedModel:
    """Two query heads share keys and values and attend alike; only ``a1.h2`` matters, ``a1.h3`` writes to features nothing reads."""
    model = _CopyModel.of(form)
    helper, distractor = Head(1, 2), Head(1, 3)
    model.copy(helper, 1.0)
    model.copy(distractor, 1.0, unread=True)
    model.wiring.background(background)
    return _planted(model, "shared_group", helper, None, distractor)
