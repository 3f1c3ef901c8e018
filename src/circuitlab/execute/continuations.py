"""How probable a model finds given tokens: answers after their prompts, and passages of text, whether the model is edited or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.progress import step
from circuitlab.model.decoder.cache import Cache
from circuitlab.model.interventions import Intervention, Standing
from circuitlab.model.interventions.base import NodeEdit, PatternEdit
from circuitlab.model.interventions.positions import Positions
from circuitlab.model.places import Places
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["Begun", "Continuation", "Likelihoods", "likelihoods"]

_ANSWERING = frozenset({"last", "END", "generated"})
"""Positions from a prompt's last token on."""


@dataclass(frozen=True)
class Continuation:
    """A prompt with what follows it, and which of its tokens are scored.

    Parameters
    ----------
    tokens : tuple of int
        The prompt and what follows it.
    end : int
        Position of the prompt's last token; interventions at ``"generated"`` positions act after it.
    scored : (int, int)
        Position of the first token that is scored, and the one after the last.

    Raises
    ------
    BadParameterError
        If no token is scored, or one is that follows nothing or lies outside.

    Examples
    --------
    >>> Continuation.passage((5, 6, 7)).scored
    (1, 3)
    """

    tokens: tuple[int, ...]
    end: int
    scored: tuple[int, int]

    def __post_init__(self) -> None:
        start, stop = self.scored
        if not (1 <= start < stop <= len(self.tokens) and 0 <= self.end < len(self.tokens)):
            what = f"Tokens {self.scored} after position {self.end} cannot be scored in a row of {len(self.tokens)} tokens."
            raise BadParameterError(what, "Give the first token, from 1 on, and the one after the last.")

    @classmethod
    def passage(cls, row: Sequence[int]) -> Continuation:
        """A text of which every token but the first is scored."""
        return cls(tuple(row), len(row) - 1, (1, len(row)))


class Likelihoods(NamedTuple):
    """What a model makes of continuations.

    Attributes
    ----------
    logprob : ndarray, shape (continuation,)
        Mean log-probability of the scored tokens, in nats; its negative is the loss.
    top : ndarray, shape (continuation,)
        Share of the scored tokens that are the most probable of the whole vocabulary.
    """

    logprob: np.ndarray
    top: np.ndarray


@dataclass(frozen=True, eq=False)
class Begun:
    """Prompts that a model has read up to their last tokens, so that answers under further edits begin there.

    Parameters
    ----------
    continuations : tuple of Continuation
        Prompts with what follows them.
    embedded : tuple of Tensor, each of shape (1, pos, d_model)
        The residual stream that enters the first layer.
    caches : tuple of Cache
        Keys and values of all tokens before the prompt's last one.
    edits : tuple of Intervention
        Edits of the model that read them; they may act anywhere.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.testing.tiny import tiny_model
    >>> model, rows = tiny_model("llama"), [Continuation((3, 5, 7, 9, 1), 2, (3, 5))]
    >>> bool(np.allclose(Begun.of(model, rows).likelihoods(model).logprob, likelihoods(model, rows).logprob, atol=1e-5))
    True
    """

    continuations: tuple[Continuation, ...]
    embedded: tuple[Float[Tensor, "1 pos d_model"], ...]
    caches: tuple[Cache, ...]
    edits: tuple[Intervention, ...] = ()

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, continuations: Sequence[Continuation]) -> Begun:
        """Run the prompts.

        Raises
        ------
        ModelError
            If the model has no functional forward, or its rotary angles depend on the length of the text.
        BadParameterError
            If a token is scored that does not follow the prompt's last one.
        """
        if model.length_dependent:
            what = f"Rotary angles of {model.spec.name} depend on the length of the text, so that prompts cannot be read before answers."
            raise ModelError(what, "Use likelihoods, which runs every text as a whole.")
        for one in continuations:
            if one.scored[0] <= one.end:
                what = f"Token {one.scored[0]} is scored, and stands in the prompt, which ends at {one.end}."
                raise BadParameterError(what, "Score tokens after the prompt, or use likelihoods.")
        decoder, embedded, caches = model.decoder, [], []
        for one in continuations:
            tokens = torch.tensor([one.tokens])
            embedded.append(decoder.embed(tokens))
            places = Places(tokens, torch.tensor([one.end])).window(0, one.end)
            caches.append(decoder.prefill(embedded[-1][:, : one.end], decoder.tap(places), len(one.tokens)))
        return cls(tuple(continuations), tuple(embedded), tuple(caches), _edits(model))

    def row(self, number: int) -> Begun:
        """One of the prompts."""
        return Begun((self.continuations[number],), (self.embedded[number],), (self.caches[number],), self.edits)

    def final(self, model: Model, number: int) -> Float[Tensor, "token d_model"]:
        """The residual stream that leaves the last layer before each scored token of one row; gradients flow to values of edits.

        Parameters
        ----------
        model : Model
            The model that read the prompts, or one made of it by edits at positions ``"last"`` and ``"generated"``.
        number : int
            The row.

        Raises
        ------
        BadParameterError
            If an edit acts, or may act, inside the prompt.
        """
        decoder, one = model.decoder, self.continuations[number]
        for edit in _edits(model):
            if not any(edit is own for own in self.edits):
                _require_answering(edit)
        tokens = torch.tensor([one.tokens])
        # END is a mark, so that "last" means the prompt's last token.
        places = Places(tokens, torch.tensor([one.end]), {"END": torch.tensor([one.end])}).window(one.end, len(one.tokens))
        resid = self.embedded[number][:, one.end :]
        out = decoder.forward(resid, cache=self.caches[number].copy(), tap=decoder.tap(places))
        return out[0, one.scored[0] - 1 - one.end : one.scored[1] - 1 - one.end]

    @torch.no_grad()
    def likelihoods(self, model: Model) -> Likelihoods:
        """As `likelihoods`, without reading the prompts again."""
        finals = ((one, self.final(model, number)) for number, one in enumerate(self.continuations))
        return _collected(model, [_scored(model, one, resid) for one, resid in finals])


def _edits(model: Model) -> tuple[Intervention, ...]:
    standing = model.decoder.standing
    return tuple(standing.interventions) if isinstance(standing, Standing) else ()


def _require_answering(edit: Intervention) -> None:
    names = Positions.of(edit.positions).names if isinstance(edit, NodeEdit | PatternEdit) else ("unknown",)
    if not _ANSWERING.issuperset(names):
        what = f"{edit.describe()!r} acts inside prompts that were read without it."
        raise BadParameterError(what, "Edit positions 'last' and 'generated', or use likelihoods, which reads prompts anew.")


@torch.no_grad()
def likelihoods(model: Model, continuations: Sequence[Continuation]) -> Likelihoods:
    """Mean log-probability of the scored tokens of every row, and how many of them come first.

    Each row is run once, by itself and as a whole: a causal model does not read later tokens, so that every token is scored as if those
    before it had just been said.

    Parameters
    ----------
    model : Model
        With its edits, if it has any.
    continuations : sequence of Continuation

    Raises
    ------
    ModelError
        If log-probabilities are not finite.

    Examples
    --------
    >>> from circuitlab.testing.tiny import tiny_model
    >>> likelihoods(tiny_model("llama"), [Continuation.passage((3, 5, 7, 9))]).logprob.shape
    (1,)
    """
    last, rows = model.spec.n_layers - 1, []
    for number, one in enumerate(continuations):
        row, (start, stop) = torch.tensor([one.tokens]), one.scored
        # A model whose rotary angles depend on the length is run on the whole row, of which no position counts as generated.
        marks = None if model.length_dependent else {"END": torch.tensor([one.end])}
        resid = model.capture(row, [Site.RESID_POST], layers=[last], marks=marks)[Site.RESID_POST][0, 0, start - 1 : stop - 1]
        rows.append(_scored(model, one, resid))
        step(number + 1, len(continuations))
    return _collected(model, rows)


def _scored(model: Model, one: Continuation, resid: Float[Tensor, "token d_model"]) -> tuple[float, float]:
    """Mean log-probability of the scored tokens, and how many come first, from the stream that leaves the last layer before them."""
    logs = model.unembed(resid).double().log_softmax(-1).cpu()
    said = torch.tensor(one.tokens[slice(*one.scored)])
    return float(logs.gather(-1, said[:, None]).mean()), float((logs.argmax(-1) == said).double().mean())


def _collected(model: Model, rows: Sequence[tuple[float, float]]) -> Likelihoods:
    logprobs, tops = (np.array(part) for part in zip(*rows, strict=True))
    if not np.isfinite(logprobs).all():
        raise ModelError(f"Log-probabilities of {model.spec.name} are not finite.", "Load it in float32.")
    return Likelihoods(logprobs, tops)
