"""Per-token signals of an answer: how far local heads look (WAAD), what far-looking heads come back to (FAI), and entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.methods.roles.patterns import kurtosis, received
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from circuitlab.model.protocol import Model

__all__ = ["Answer", "HeadSets", "Tracks", "choose_heads", "distances", "fai", "peaks", "tracks", "waad"]

NEAR, FIRST_LATER, LAST_LATER = 10, 10, 50
"""The paper's window of WAAD, and the distances at which FAI looks back."""
_SHARE, _RECEIVERS = 0.3, 0.1
_PEAK = 0.3


@dataclass(frozen=True)
class Answer:
    """A text of which the model wrote the end.

    Parameters
    ----------
    row : tuple of int
        Token ids of the prompt and the answer.
    start : int
        Position of the answer's first token.
    """

    row: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class HeadSets:
    """Heads by how far they look: the 30 % that look nearest, the 30 % that look farthest, receivers among the others, and random heads."""

    local: tuple[Head, ...]
    far: tuple[Head, ...]
    receivers: tuple[Head, ...]


@dataclass(frozen=True, eq=False)
class Tracks:
    """Signals of one answer, one value for each of its tokens (NaN where too few later tokens look back).

    ``entropy`` is of the next token's distribution after each token, ``before`` of the distribution that the token itself was drawn from.
    ``fai`` holds one track for each set of heads that was asked for.
    """

    waad: np.ndarray
    fai: tuple[np.ndarray, ...]
    entropy: np.ndarray
    before: np.ndarray
    near: np.ndarray
    far: np.ndarray


def waad(pattern: Float[np.ndarray, "*lead query key"], window: int = NEAR) -> Float[np.ndarray, "*lead query"]:
    """Windowed average attention distance: ``sum_s A[t, s] min(t - s, window)``.

    Examples
    --------
    >>> waad(np.array([[1.0, 0, 0], [0.5, 0.5, 0], [1.0, 0, 0]])).tolist()
    [0.0, 0.5, 2.0]
    """
    place = np.arange(pattern.shape[-1])
    return np.asarray((pattern * np.clip(place[:, None] - place, 0, window)).sum(-1))


def fai(pattern: Float[np.ndarray, "*lead query key"], near: int = FIRST_LATER, far: int = LAST_LATER) -> Float[np.ndarray, "*lead key"]:
    """Future attention influence: the mean of ``A[t, s]`` over queries ``near`` to ``far`` tokens later; NaN where there are none.

    Examples
    --------
    >>> fai(np.array([[1.0, 0, 0], [0.5, 0.5, 0], [0.75, 0.25, 0]]), near=1, far=2).tolist()
    [0.625, 0.25, nan]
    """
    place = np.arange(pattern.shape[-1])
    later = (place[:, None] - place >= near) & (place[:, None] - place <= far)
    count = later.sum(0)
    return np.asarray(np.where(count > 0, (pattern * later).sum(-2) / np.maximum(count, 1), np.nan))


def distances(pattern: Float[np.ndarray, "*lead query key"], start: int) -> Float[np.ndarray, "*lead"]:
    """Mean attention distance of each head over the tokens of the answer."""
    place = np.arange(pattern.shape[-1])
    return np.asarray((pattern * np.maximum(place[:, None] - place, 0)).sum(-1)[..., start:].mean(-1))


def peaks(values: Float[np.ndarray, " pos"]) -> Int[np.ndarray, " peak"]:
    """Local maxima among the largest 30 % of a track; NaN and both ends are never peaks.

    Examples
    --------
    >>> peaks(np.array([0.0, 3, 1, 0.5, 1, 0, 5, 0, 9])).tolist()
    [1, 6]
    """
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(0, dtype=int)
    high = values >= np.quantile(values[known], 1 - _PEAK)
    inside = np.zeros(len(values), dtype=bool)
    inside[1:-1] = (values[1:-1] > values[:-2]) & (values[1:-1] >= values[2:])
    return np.flatnonzero(inside & high & known)


def choose_heads(model: Model, answers: Sequence[Answer]) -> tuple[HeadSets, Float[np.ndarray, "layer head"]]:
    """Sets of heads by their mean distance on some answers, and the distances; receivers have the largest kurtosis of what tokens get."""
    far, sharp = [], []
    for number, answer in enumerate(answers):
        pattern = _pattern(model, answer)
        far.append(distances(pattern, answer.start))
        sharp.append(kurtosis(received(pattern)))
        step(number + 1, len(answers))
    distance, sharpness = np.mean(far, axis=0), np.mean(sharp, axis=0)
    count = max(1, round(_SHARE * distance.size))
    local, distant = _heads(distance, count), _heads(-distance, count)
    left = sharpness.copy()
    for head in (*local, *distant):  # what local heads give to far tokens is little more than rounding, whatever its kurtosis
        left[head.layer, head.head] = -np.inf
    return HeadSets(local, distant, _heads(-left, max(1, round(_RECEIVERS * left.size)))), distance


def _heads(values: Float[np.ndarray, "layer head"], count: int) -> tuple[Head, ...]:
    """The heads of the smallest values."""
    order = np.argsort(values, axis=None, kind="stable")[:count]
    places = [np.unravel_index(int(index), values.shape) for index in order]
    return tuple(Head(int(layer), int(head)) for layer, head in places)


def tracks(model: Model, answer: Answer, local: Sequence[Head], sets: Sequence[Sequence[Head]]) -> Tracks:
    """All signals of one answer: WAAD of the local heads, FAI of each set of heads, and entropies."""
    pattern, start = _pattern(model, answer), answer.start

    def mean(heads: Sequence[Head]) -> Any:
        return np.mean([pattern[head.layer, head.head] for head in heads], axis=0)

    near, far = mean(local), [mean(heads) for heads in sets]
    entropy = _entropy(model, answer)
    return Tracks(
        waad(near)[start:], tuple(fai(one)[start:] for one in far), entropy[start:], entropy[start - 1 : -1], near[start:, start:],
        far[0][start:, start:],
    )  # fmt: skip


def _pattern(model: Model, answer: Answer) -> Float[np.ndarray, "layer head query key"]:
    return np.asarray(model.capture(torch.tensor([answer.row]), [Site.PATTERN])[Site.PATTERN][0].double().cpu().numpy())


def _entropy(model: Model, answer: Answer) -> Float[np.ndarray, " pos"]:
    """Entropy of the next token's distribution after every token, in nats."""
    last = model.spec.n_layers - 1
    stream = model.capture(torch.tensor([answer.row]), [Site.RESID_POST], layers=[last])[Site.RESID_POST][0, 0]
    with torch.no_grad():
        logs = model.unembed(stream).double().log_softmax(-1)
    return np.asarray(-(logs.exp() * logs).sum(-1).cpu().numpy())
