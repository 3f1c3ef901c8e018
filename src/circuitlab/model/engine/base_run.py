"""One unedited run of a few prompts, kept so that edited runs can start in the middle of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["BaseRun", "LayerCall", "record"]


class _Recorder:
    """Stands in for a key/value cache: keeps every layer's keys and values, and hands them on unchanged."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Called by attention with the keys and values of this layer, (row, kv_head, pos, d_head)."""
        self.kept[layer_idx] = (keys, values)
        return keys, values


class _Prefix:
    """Stands in for a key/value cache: puts the base run's keys and values of earlier positions before the new ones."""

    def __init__(self, kept: dict[int, tuple[Tensor, Tensor]], prompts: Tensor, start: int) -> None:
        self._kept, self._prompts, self._start = kept, prompts, start

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Called by attention with the new positions of this layer."""
        if self._start == 0:
            return keys, values
        earlier = [part[:, :, : self._start].index_select(0, self._prompts) for part in self._kept[layer_idx]]
        return torch.cat([earlier[0], keys], dim=2), torch.cat([earlier[1], values], dim=2)


@dataclass(frozen=True, eq=False)
class LayerCall:
    """How the model called one of its layers: everything but the hidden states."""

    args: tuple[Any, ...]
    named: dict[str, Any]

    def on(self, start: int, cache: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call for the positions from ``start`` on, for any number of rows, with another cache."""
        args = tuple(_from(value, start, cache) for value in self.args)
        return args, {name: _from(value, start, cache) for name, value in self.named.items()}


@dataclass(frozen=True, eq=False)
class BaseRun:
    """What an unedited run left.

    Parameters
    ----------
    entering : list of Tensor, shape (prompt, pos, d_model)
        The residual stream entering each layer, and leaving the last one.
    calls : list of LayerCall
        How each layer was called.
    kept : dict of int to (Tensor, Tensor)
        Keys and values of each layer, (prompt, kv_head, pos, d_head).
    """

    entering: list[Float[Tensor, "prompt pos d_model"]]
    calls: list[LayerCall]
    kept: dict[int, tuple[Tensor, Tensor]]

    def cache(self, prompts: Int[Tensor, " row"], start: int) -> _Prefix:
        """A cache for rows that belong to these prompts and begin at position ``start``."""
        return _Prefix(self.kept, prompts, start)


def record(blocks: Any, run: Callable[[], Any]) -> BaseRun:
    """Call ``run`` and keep what its layers were given; ``blocks`` are the model's layers."""
    recorder = _Recorder()
    entering: list[Tensor] = []
    calls: list[LayerCall] = []
    last: list[Tensor] = []

    def before(_module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden, rest, named = _split(args, named)
        entering.append(hidden.detach())
        calls.append(LayerCall(tuple(rest), named))
        args = tuple(recorder if is_cache(value) else value for value in rest)
        return (hidden, *args), {name: recorder if is_cache(value) else value for name, value in named.items()}

    def after(_module: Any, _args: Any, out: Any) -> None:
        last[:] = [hidden_of(out).detach()]

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(after))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return BaseRun([*entering, *last], calls, recorder.kept)


def is_cache(value: Any) -> bool:
    """Whether an argument of a layer is its key/value cache."""
    return hasattr(value, "update") and hasattr(value, "get_seq_length")


def hidden_of(out: Any) -> Tensor:
    """The hidden states in what a layer returned."""
    hidden: Tensor = out[0] if isinstance(out, tuple) else out
    return hidden


def _split(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Tensor, list[Any], dict[str, Any]]:
    if args:
        return args[0], list(args[1:]), dict(named)
    rest = dict(named)
    return rest.pop("hidden_states"), [], rest


def _from(value: Any, start: int, cache: Any) -> Any:
    """An argument cut to the positions from ``start`` on.

    Masks are (row, 1, query, key), rotary angles (row, pos, d), position ids (row, pos), cache positions (pos). Prompts are not
    padded on the left and the model is causal, so every row's mask, angles and ids are those of the first.
    """
    if is_cache(value):
        return cache
    if isinstance(value, tuple):
        return tuple(_from(one, start, cache) for one in value)
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        return value
    if value.ndim == 1:
        return value[start:]
    first = value[:1]
    return first[..., start:, :] if value.ndim == 4 else first[:, start:]  # noqa: PLR2004 - a mask has four axes
