"""Tensors that interventions hold: read once, hashed when asked, and laid out over the prompts of a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from circuitlab.core.errors import BadParameterError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.places import Places

__all__ = ["PromptTable", "hash_tensor", "held_positions", "laid_out", "of_node", "read_tensor"]

_MOST_AXES = 3


def read_tensor(value: Any, name: str) -> Tensor:
    """A tensor of numbers; a `torch.nn.Parameter` stays the object that it is.

    Raises
    ------
    BadParameterError
        If a number is not finite.
    """
    given = torch.as_tensor(value)
    given = given if given.is_floating_point() else given.to(torch.get_default_dtype())
    if not bool(given.detach().isfinite().all()):
        raise BadParameterError(f"{name} of an intervention holds numbers that are not finite.", "Give finite numbers.")
    return given


def hash_tensor(value: Tensor) -> str:
    """SHA-256 over dtype, shape and bytes, as they are now."""
    held = value.detach().cpu().contiguous()
    head = f"{held.dtype}{tuple(held.shape)}".encode()
    return hashlib.sha256(head + held.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def of_node(value: Tensor, index: int, count: int, name: str) -> Tensor:
    """One node's part: the whole tensor where there is one node or one vector for all, an entry of the first axis otherwise.

    Raises
    ------
    BadParameterError
        If the first axis does not count the nodes.
    """
    if count == 1 or value.ndim <= 1:
        part = value
    elif value.shape[0] == count:
        part = value[index]
    else:
        what = f"{name} of shape {tuple(value.shape)} was given to {count} nodes."
        raise BadParameterError(what, "Give one vector for all, or a first axis with an entry for each node.")
    if part.ndim > _MOST_AXES:
        what = f"{name} of shape {tuple(part.shape)} has more axes than prompt, position and width."
        raise BadParameterError(what, "Give (width,), (pos, width) or (prompt, pos, width).")
    return part


@dataclass(frozen=True, eq=False)
class PromptTable:
    """Finds the prompts of a batch by their tokens.

    Parameters
    ----------
    rows : dict of token ids to int
    """

    rows: dict[tuple[int, ...], int]

    @classmethod
    def of(cls, batch: ContrastBatch, *, corrupt_too: bool = False) -> PromptTable:
        """Clean prompts, and then corrupt ones that are no clean prompt too.

        Raises
        ------
        BadParameterError
            If a clean prompt occurs twice with different corrupt ones: which pair is meant cannot be known.
        """
        rows: dict[tuple[int, ...], int] = {}
        for pair, key in enumerate(_keys(batch.clean, batch.end)):
            first = rows.setdefault(key, pair)
            if corrupt_too and not torch.equal(batch.corrupt[first], batch.corrupt[pair]):
                what = f"Pairs {first} and {pair} have the same clean prompt and different corrupt ones."
                raise BadParameterError(what, "Use pairs whose clean prompts differ, so that a prompt says which pair it is of.")
        for pair, key in enumerate(_keys(batch.corrupt, batch.end) if corrupt_too else []):
            rows.setdefault(key, pair)
        return cls(rows)

    def find(self, places: Places) -> Int[Tensor, " prompt"]:
        """The pair of each prompt of a run.

        Raises
        ------
        BadParameterError
            If a prompt is not in the batch.
        """
        keys = _keys(places.tokens, places.end)
        unknown = [i for i, key in enumerate(keys) if key not in self.rows]
        if unknown:
            key = keys[unknown[0]]
            shown = list(key[:12]) + (["..."] if len(key) > 12 else [])  # noqa: PLR2004 - enough to recognise a prompt
            what = f"Prompt {unknown[0]} of the run ({len(key)} tokens: {shown}) is none of the {len(self.rows)} that there are values for."
            raise BadParameterError(what, "Run prompts of the intervention's batch, and say where each one ends.")
        return torch.tensor([self.rows[key] for key in keys])


def _keys(tokens: Tensor, end: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row[: stop + 1]) for row, stop in zip(tokens.tolist(), end.tolist(), strict=True)]


def held_positions(value: Tensor) -> int | None:
    """How many positions one node's value tells apart; None where it is the same for all."""
    return value.shape[-2] if value.ndim > 1 and value.shape[-2] > 1 else None


def laid_out(
    value: Float[Tensor, ...],
    places: Places,
    chosen: Bool[Tensor, "prompt pos"] | None,
    prompts: PromptTable | None,
    name: str,
) -> Float[Tensor, ...]:
    """One node's value at the positions of a run: (width,), or (prompt or 1, pos, width).

    Raises
    ------
    BadParameterError
        If a chosen position of a prompt has no value, or values go by prompt and nobody said by which.
    """
    if value.ndim <= 1 or (value.shape[-2] == 1 and (value.ndim == 2 or value.shape[0] == 1)):  # noqa: PLR2004
        return value if value.ndim <= 1 else value.reshape(value.shape[-1])
    whole = value if value.ndim == _MOST_AXES else value[None]
    at = places.positions
    length = whole.shape[1]
    if length > 1:
        missing = (at >= length) & (at <= places.end.to(at.device)[:, None])
        missing = missing if chosen is None else missing & chosen
        if bool(missing.any()):
            what = f"{name} holds {length} positions, and a prompt of {int(places.end.max()) + 1} tokens was to be edited after them."
            raise BadParameterError(what, "Name the positions to edit, or give a value for every position.")
    if whole.shape[0] > 1:
        if prompts is None:
            what = f"{name} of shape {tuple(value.shape)} differs from prompt to prompt, and does not say which prompts it is of."
            raise BadParameterError(what, "Give the batch whose clean prompts the values belong to, or one value for all prompts.")
        whole = whole[prompts.find(places).to(whole.device)]
    row = torch.arange(whole.shape[0], device=whole.device)[:, None]
    return whole[row, at.clamp(max=length - 1).to(whole.device)]
