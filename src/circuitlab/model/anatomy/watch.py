"""Watch one run of a model: every module's input and output in order, and where a softmax over keys ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Call", "Softmax", "Watched", "first_tensor", "is_linear", "is_norm", "is_softmax", "watch"]

_SOFTMAX = {torch.softmax, torch.nn.functional.softmax, torch.Tensor.softmax}


def is_softmax(function: Any, value: Any) -> bool:
    """Whether a torch call may be a softmax over keys: on (row, head, query, key), or with rows and heads on one axis."""
    return function in _SOFTMAX and isinstance(value, torch.Tensor) and value.ndim in {3, 4}


def is_linear(module: Any) -> bool:
    """Whether a module is a linear map, with or without an adapter around it."""
    if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":
        return True
    return isinstance(getattr(module, "base_layer", None), torch.nn.Module) and is_linear(module.base_layer)


def is_norm(module: Any) -> bool:
    """Whether a module is a norm, by its class name; what it computes is checked where it is used."""
    return "norm" in type(module).__name__.lower() and not any(is_linear(part) for part in module.modules())


def first_tensor(value: Any) -> Tensor | None:
    """The tensor in an output or in arguments: the value itself, or the first tensor of a tuple or list."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, tuple | list):
        return next((part for part in value if isinstance(part, torch.Tensor)), None)
    return None


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module.

    Parameters
    ----------
    module : Module
        The module that was called.
    inside : tuple of Module
        The modules that were running, outermost first.
    entered, left : Tensor or None
        Its first tensor argument and its first tensor result: not copies, so that they can be compared by memory address.
    value : Tensor or None
        A copy of the result when the call ended; some families add to ``left`` in place afterwards.
    began, ended : int
        Order of the start and the end of the call among all events of the run.
    """

    module: Any
    inside: tuple[Any, ...]
    entered: Tensor | None
    left: Tensor | None
    value: Tensor | None
    began: int
    ended: int


@dataclass(frozen=True, eq=False)
class Softmax:
    """A softmax over keys: its result, the modules that were running (outermost first), and its order among all events of the run."""

    value: Tensor
    inside: tuple[Any, ...]
    when: int


@dataclass(eq=False)
class Watched:
    """The events of a run, in the order in which calls ended. Tensors are kept alive, so that no memory address is reused."""

    calls: list[Call] = field(default_factory=list)
    softmaxes: list[Softmax] = field(default_factory=list)

    def of(self, module: Any) -> list[Call]:
        """The calls of one module."""
        return [call for call in self.calls if call.module is module]

    def within(self, module: Any) -> list[Call]:
        """The calls that ran inside a call of a module."""
        return [call for call in self.calls if any(outer is module for outer in call.inside)]


class _Catch(TorchFunctionMode):
    def __init__(self, watched: Watched, stack: list[Any], clock: list[int], change: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self._watched, self._stack, self._clock, self._change = watched, stack, clock, change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if is_softmax(func, out):
            out = out if self._change is None else self._change(out)
            self._clock[0] += 1
            self._watched.softmaxes.append(Softmax(out, tuple(self._stack), self._clock[0]))
        return out


@contextmanager
def watch(root: Any, change: Callable[[Tensor], Tensor] | None = None) -> Iterator[Watched]:
    """Watch every call of a model's modules inside the ``with`` block; ``change`` replaces the results of softmaxes."""
    watched, stack, clock = Watched(), [], [0]
    open_calls: list[tuple[Any, Tensor | None, int]] = []

    def enter(module: Any, args: Any, named: Any) -> None:
        clock[0] += 1
        entered = first_tensor(args)
        if entered is None:
            entered = next((named[key] for key in ("hidden_states", "input", "x") if isinstance(named.get(key), torch.Tensor)), None)
        open_calls.append((module, entered, clock[0]))
        stack.append(module)

    def leave(module: Any, _args: Any, _named: Any, out: Any) -> None:
        clock[0] += 1
        _, entered, began = open_calls.pop()
        stack.pop()
        left = first_tensor(out)
        value = None if left is None else left.detach().clone()
        watched.calls.append(Call(module, tuple(stack), entered, left, value, began, clock[0]))

    handles = []
    for module in root.modules():
        handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        with _Catch(watched, stack, clock, change):
            yield watched
    finally:
        for handle in handles:
            handle.remove()
