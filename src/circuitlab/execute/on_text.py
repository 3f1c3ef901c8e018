"""All heads on natural text: how much each writes at every position, what it does for the token that follows, and where it looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from circuitlab.core.errors import ModelError
from circuitlab.core.progress import step
from circuitlab.execute.head_writes import head_writes
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["TextValues", "grouped_by_length", "text_values"]

_TOGETHER = 512
"""Tokens in one pass; a pass is never less than one passage."""
_KEYS = 5
"""Tokens attended that are kept."""


@dataclass(frozen=True, eq=False)
class TextValues:
    """What every head does at every position that sees an earlier one and has a next token.

    Parameters
    ----------
    passage, position : ndarray of int, shape (place,)
        Where.
    activation : ndarray, shape (place, layer, head)
        Norm of what the head adds to the stream.
    effect : ndarray, shape (place, layer, head)
        Its direct effect on the true next token, see `text_values`.
    keys, weights : ndarray, shape (place, layer, head, key)
        The tokens it attends to most, by position, and how much.
    """

    passage: np.ndarray
    position: np.ndarray
    activation: np.ndarray
    effect: np.ndarray
    keys: np.ndarray
    weights: np.ndarray


@torch.no_grad()
def text_values(model: Model, rows: Sequence[tuple[int, ...]]) -> TextValues:
    """Run passages, and read all heads in one pass.

    The direct effect is what the logit of the true next token, above the mean of all logits, loses if what the head adds to the stream is
    replaced by its mean over all positions, on the way to the logits alone: every other part, the scale of the final norm, and that of a
    norm behind attention are held. It is read before a softcap, and therefore linear and exact.

    Parameters
    ----------
    model : Model
    rows : sequence of tuple of int
        Token ids of passages, three or more each.

    Raises
    ------
    ModelError
        If what attention adds is not the sum of what heads write, or values are not finite.
    """
    mean_column = model.weights.unembed(slice(None)).mean(0, dtype=torch.float64)
    parts, done = _Parts(), 0
    for which, tokens in grouped_by_length(rows, _TOGETHER):
        parts.add(which, _Pass.of(model, tokens, mean_column))
        done += len(which)
        step(done, len(rows))
    values = parts.joined()
    if not (np.isfinite(values.activation).all() and np.isfinite(values.effect).all()):
        raise ModelError(f"{model.spec.name} writes values that are not finite.", "Load it in float32.")
    return values


def grouped_by_length(rows: Sequence[tuple[int, ...]], together: int) -> Iterator[tuple[list[int], Int[Tensor, "row pos"]]]:
    """Passages of one length, about ``together`` tokens at a time, each with its number; nothing is padded."""
    lengths: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        lengths.setdefault(len(row), []).append(number)
    for length, numbers in sorted(lengths.items()):
        size = max(1, together // length)
        for first in range(0, len(numbers), size):
            which = numbers[first : first + size]
            yield which, torch.tensor([rows[number] for number in which])


@dataclass(frozen=True, eq=False)
class _Pass:
    """One pass, at the positions between the first token and the last."""

    activation: Float[Tensor, "row pos layer head"]
    along_direction: Float[Tensor, "row pos layer head"]
    written: Float[Tensor, "layer head d_model"]
    direction: Float[Tensor, "row pos d_model"]
    keys: Int[Tensor, "row pos layer head key"]
    weights: Float[Tensor, "row pos layer head key"]

    @classmethod
    def of(cls, model: Model, tokens: Int[Tensor, "row pos"], mean_column: Float[Tensor, " d_model"]) -> _Pass:
        """Run it. ``written`` is a sum over its positions."""
        inner = slice(1, tokens.shape[1] - 1)
        read = model.capture(tokens, [Site.Z, Site.ATTN_OUT, Site.RESID_POST, Site.PATTERN])
        final = read[Site.RESID_POST][:, -1, inner].double()
        columns = model.weights.unembed(tokens[:, 2:]).double()
        direction = model.weights.final_norm.pull_back(columns - mean_column, final)
        norms, along, sums = [], [], []
        for layer in range(model.spec.n_layers):
            written = head_writes(model, layer, read[Site.Z][:, layer, inner], read[Site.ATTN_OUT][:, layer, inner])
            norms.append(written.norm(dim=-1).movedim(0, -1))
            along.append(torch.einsum("hrpm,rpm->rph", written, direction))
            sums.append(written.sum((1, 2)))
        pattern = read[Site.PATTERN][:, :, :, inner].permute(0, 3, 1, 2, 4)
        best = pattern.topk(min(_KEYS, pattern.shape[-1]), dim=-1)
        return cls(torch.stack(norms, 2), torch.stack(along, 2), torch.stack(sums), direction, best.indices.int(), best.values.float())


@dataclass(eq=False)
class _Parts:
    """Passes, put together in the order of the passages."""

    places: list[tuple[int, int]] = field(default_factory=list)
    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)
    written: Tensor | float = 0.0

    def add(self, which: Sequence[int], one: _Pass) -> None:
        """Keep what a pass has, without its row axis."""
        length = one.activation.shape[1]
        self.places += [(number, 1 + at) for number in which for at in range(length)]
        few = _KEYS - one.keys.shape[-1]
        for name in ("activation", "along_direction", "direction", "keys", "weights"):
            array = getattr(one, name).flatten(0, 1).cpu().numpy()
            if name in {"keys", "weights"}:
                array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, few)])
            self.arrays.setdefault(name, []).append(array)
        self.written = self.written + one.written

    def joined(self) -> TextValues:
        """Everything, passage by passage; effects against the mean of what each head writes."""
        places = np.array(self.places)
        order = np.lexsort((places[:, 1], places[:, 0]))
        arrays = {name: np.concatenate(parts)[order] for name, parts in self.arrays.items()}
        assert isinstance(self.written, torch.Tensor)  # noqa: S101 - there is at least one passage
        mean = (self.written / len(places)).cpu().numpy()
        effect = arrays["along_direction"] - np.einsum("nm,lhm->nlh", arrays["direction"], mean, optimize=True)
        passage, position = places[order].T
        return TextValues(passage, position, arrays["activation"], effect, arrays["keys"], arrays["weights"])
