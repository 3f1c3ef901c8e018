"""The tensors of interventions: read them, hash them, and expand them over the prompts of a run."""

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
    """A floating-point tensor; a `torch.nn.Parameter` is returned as the same object.

    Raises
    ------
    BadParameterError
        If a number is not finite.
    """
    tensor = torch.as_tensor(value)
    tensor = tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())
    if not bool(tensor.detach().isfinite().all()):
        raise BadParameterError(f"{name} of an intervention has entries that are not finite.", "Give finite numbers.")
    return tensor


def hash_tensor(value: Tensor) -> str:
    """SHA-256 over dtype, shape and current bytes."""
    values = value.detach().cpu().contiguous()
    head = f"{values.dtype}{tuple(values.shape)}".encode()
    return hashlib.sha256(head + values.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def of_node(value: Tensor, index: int, count: int, name: str) -> Tensor:
    """One node's part of a tensor: all of it for a single node or a single vector, otherwise an entry of the first axis.

    Raises
    ------
    BadParameterError
        If the first axis does not have one entry for each node.
    """
    if count == 1 or value.ndim <= 1:
        part = value
    elif value.shape[0] == count:
        part = value[index]
    else:
        what = f"{name} of shape {tuple(value.shape)} was given to {count} nodes."
        raise BadParameterError(what, "Give one vector for all nodes, or a first axis with one entry for each node.")
    if part.ndim > _MOST_AXES:
        what = f"{name} of shape {tuple(part.shape)} has more axes than prompt, position and width."
        raise BadParameterError(what, "Give (width,), (pos, width) or (prompt, pos, width).")
    return part


@dataclass(frozen=True, eq=False)
class PromptTable:
    """Finds the prompts of a batch by their tokens.

    Parameters
    ----------
    rows : dict of tuple of int to int
        Number of the pair, by the token ids of a prompt.
    """

    rows: dict[tuple[int, ...], int]

    @classmethod
    def of(cls, batch: ContrastBatch, *, corrupt_too: bool = False) -> PromptTable:
        """The clean prompts of a batch; with ``corrupt_too`` also the corrupt prompts that are not clean prompts.

        Raises
        ------
        BadParameterError
            If a clean prompt occurs with two different corrupt prompts, so that its pair is ambiguous.
        """
        rows: dict[tuple[int, ...], int] = {}
        for pair, key in enumerate(_keys(batch.clean, batch.end)):
            first = rows.setdefault(key, pair)
            if corrupt_too and not torch.equal(batch.corrupt[first], batch.corrupt[pair]):
                what = f"Pairs {first} and {pair} have the same clean prompt and different corrupt ones."
                raise BadParameterError(what, "Use pairs whose clean prompts differ, so that a prompt identifies its pair.")
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
            what = f"Prompt {unknown[0]} of the run ({len(key)} tokens: {shown}) is not among the {len(self.rows)} that have values."
            raise BadParameterError(what, "Run prompts of the intervention's batch, and pass the position where each one ends.")
        return torch.tensor([self.rows[key] for key in keys])


def _keys(tokens: Tensor, end: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row[: stop + 1]) for row, stop in zip(tokens.tolist(), end.tolist(), strict=True)]


def held_positions(value: Tensor) -> int | None:
    """Number of positions in one node's value; None if it is the same at all positions."""
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
        If a chosen position of a prompt has no value, or values differ between prompts and ``prompts`` is None.
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
            what = f"{name} holds {length} positions, but a prompt of {int(places.end.max()) + 1} tokens would be edited after them."
            raise BadParameterError(what, "Name the positions to edit, or give a value for every position.")
    if whole.shape[0] > 1:
        if prompts is None:
            what = f"{name} of shape {tuple(value.shape)} differs between prompts, and it is not known which prompts these are."
            raise BadParameterError(what, "Give the batch whose clean prompts the values belong to, or one value for all prompts.")
        whole = whole[prompts.find(places).to(whole.device)]
    row = torch.arange(whole.shape[0], device=whole.device)[:, None]
    return whole[row, at.clamp(max=length - 1).to(whole.device)]
