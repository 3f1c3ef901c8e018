"""Prompts that are answered by one of a few label words, and how a model answers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.core.errors import TokenizationError
from circuitlab.execute.single_tokens import single_token
from circuitlab.experiments.attention_sinks.reviews import LABELS, NEGATIVE, POSITIVE, SHOWN
from circuitlab.model.encode import need_tokenizer, tokenize

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["Labelled", "Scored", "log_probabilities", "review_prompts"]

_TOGETHER = 8
_LAYOUT = "Review: {}\nSentiment:"


@dataclass(frozen=True, eq=False)
class Scored:
    """How a model answers prompts.

    Parameters
    ----------
    likely : ndarray, shape (prompt,)
        Log-probability of the right label among the labels, in nats.
    right : ndarray, shape (prompt,)
        1 where the right label is the likeliest of the labels, else 0.
    """

    likely: np.ndarray
    right: np.ndarray


@dataclass(frozen=True, eq=False)
class Labelled:
    """Prompts with their right labels.

    Parameters
    ----------
    rows : tuple of tuple of int
        Token ids of each prompt; lengths may differ.
    answers : tuple of int
        Number of the right label of each prompt.
    labels : tuple of int
        Token of each label.
    """

    rows: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]
    labels: tuple[int, ...]

    def halves(self, rng: np.random.Generator) -> tuple[Labelled, Labelled]:
        """Two sets of different prompts, each with as many of every label as the other where that number is even."""
        parts: tuple[list[int], list[int]] = ([], [])
        for label in range(len(self.labels)):
            of_label = [i for i, answer in enumerate(self.answers) if answer == label]
            order = [of_label[i] for i in rng.permutation(len(of_label)).tolist()]
            parts[0].extend(order[::2])
            parts[1].extend(order[1::2])
        first, second = (self.select(sorted(part)) for part in parts)
        return first, second

    def select(self, prompts: Sequence[int]) -> Labelled:
        """Some of the prompts."""
        return Labelled(tuple(self.rows[i] for i in prompts), tuple(self.answers[i] for i in prompts), self.labels)

    def groups(self) -> Iterator[list[int]]:
        """Numbers of prompts of the same length, a few at a time."""
        for length in sorted({len(row) for row in self.rows}):
            alike = [i for i, row in enumerate(self.rows) if len(row) == length]
            yield from (alike[start : start + _TOGETHER] for start in range(0, len(alike), _TOGETHER))

    def scored(self, model: Model) -> Scored:
        """How a model answers."""
        return self.scored_by(lambda _prompt: model, one_by_one=False)

    def scored_by(self, model_for: Callable[[int], Model], *, one_by_one: bool = True) -> Scored:
        """How models answer, each prompt its own (asked by number), or one model several prompts at a time."""
        values = np.zeros((len(self.rows), len(self.labels)))
        for group in self.groups():
            for some in [[i] for i in group] if one_by_one else [group]:
                values[some] = log_probabilities(model_for(some[0]), self.select(some)).double().cpu().numpy()
        rows = np.arange(len(self.rows))
        return Scored(values[rows, list(self.answers)], (values.argmax(-1) == np.array(self.answers)).astype(float))


def log_probabilities(model: Model, asked: Labelled, *, gradients: bool = False) -> Float[Tensor, "prompt label"]:
    """Log-probability of each label among the labels; the prompts have one length."""
    tokens = torch.tensor(asked.rows)
    logits = model.logits(tokens, torch.full((len(tokens),), tokens.shape[1] - 1), gradients=gradients)
    return logits[:, list(asked.labels)].log_softmax(-1)


def review_prompts(model: Model) -> Labelled:
    """The reviews, each after two demonstrations.

    Raises
    ------
    TokenizationError
        If a label is not a single token.
    """
    tokens = [single_token(model, f" {label}") for label in LABELS]
    labels = tuple(token for token in tokens if token is not None)
    if len(labels) < len(LABELS):
        what = f"The labels {LABELS} are not single tokens of {model.spec.name}."
        raise TokenizationError(what, "Ask another model.")
    shown = "".join(f"{_LAYOUT.format(review)} {label}\n\n" for review, label in SHOWN)
    texts = [shown + _LAYOUT.format(review) for review in (*POSITIVE, *NEGATIVE)]
    prompts = tokenize(need_tokenizer(model.tokenizer, model.spec.name), texts)
    answers = (0,) * len(POSITIVE) + (1,) * len(NEGATIVE)
    return Labelled(tuple(tuple(prompt.ids) for prompt in prompts), answers, labels)
