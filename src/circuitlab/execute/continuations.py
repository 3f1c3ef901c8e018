"""How probable a model finds given tokens: answers after their prompts, and passages of text, whether the model is edited or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.progress import step
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["Continuation", "Likelihoods", "likelihoods"]


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
    last, logprobs, tops = model.spec.n_layers - 1, [], []
    for number, one in enumerate(continuations):
        row, (start, stop) = torch.tensor([one.tokens]), one.scored
        # A model whose rotary angles depend on the length is run on the whole row, of which no position counts as generated.
        marks = None if model.length_dependent else {"END": torch.tensor([one.end])}
        resid = model.capture(row, [Site.RESID_POST], layers=[last], marks=marks)[Site.RESID_POST][0, 0, start - 1 : stop - 1]
        logs = model.unembed(resid).double().log_softmax(-1).cpu()
        said = row[0, start:stop]
        logprobs.append(float(logs.gather(-1, said[:, None]).mean()))
        tops.append(float((logs.argmax(-1) == said).double().mean()))
        step(number + 1, len(continuations))
    if not np.isfinite(logprobs).all():
        raise ModelError(f"Log-probabilities of {model.spec.name} are not finite.", "Load it in float32.")
    return Likelihoods(np.array(logprobs), np.array(tops))
