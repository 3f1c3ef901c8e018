"""A pretended device: tensors that say they are on a GPU, hold real numbers on the processor, and refuse to meet tensors of the processor.

No GPU is needed. Every call of PyTorch inside `pretended` is checked as CUDA checks it: a tensor of the processor with an axis does not
enter an operation with one of the device, except as an index, as the source of a copy, or where it is moved; and numbers leave the
device only by ``.cpu()``, ``.tolist()`` and ``.item()``. Results are those of the processor, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["DEVICE", "Pretended", "move", "pretended"]

DEVICE = torch.device("cuda", 0)

_MAY_MIX = {"copy_", "__deepcopy__", "to", "type_as", "is_same_size", "requires_grad_", "_has_compatible_shallow_copy_type"}
"""Operations in which tensors of two devices may meet."""
_TO_HOST = {"numpy", "__array__", "__cuda_array_interface__", "__dlpack__", "_make_subclass"}
"""Operations that need a tensor of the processor."""
_AS_INDEX = {"__getitem__", "__setitem__", "index", "index_put", "index_put_"}


class Pretended(torch.Tensor):
    """A tensor on the pretended device."""

    __slots__ = ()


@contextmanager
def pretended() -> Iterator[None]:
    """Check every operation inside the block."""
    with _Checked():
        yield


def move(module: torch.nn.Module) -> torch.nn.Module:
    """Put the parameters and buffers of a module on the pretended device."""
    tied: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                with torch._C.DisableTorchFunctionSubclass():
                    moved = tied.setdefault(id(value), torch.nn.Parameter(value.detach().as_subclass(Pretended), value.requires_grad))
                part._parameters[name] = moved
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = value.as_subclass(Pretended)
    return module


class _Checked(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = _name(func)
        tensors = [*_tensors(args), *_tensors(tuple(kwargs.values()))]
        inside = any(isinstance(one, Pretended) for one in tensors)
        if inside:
            if name in {"device", "is_cuda", "is_cpu"}:
                return DEVICE if name == "device" else name == "is_cuda"
            if name in _TO_HOST:
                raise TypeError(f"can't convert cuda:0 device type tensor to numpy ({name}). Use Tensor.cpu() first.")
            if name not in _MAY_MIX:
                _require_one_device(name, args, tensors)
        target = True if name == "cuda" else _target(name, args, kwargs)
        if target is not None:
            args = tuple(map(_plain_device, args))
            kwargs = {key: _plain_device(value) for key, value in kwargs.items()}
        with torch._C.DisableTorchFunctionSubclass():
            out = args[0] if name == "cuda" else func(*args, **kwargs)
        if not inside and not target:
            return out
        if name == "copy_" or (name.endswith("_") and not name.endswith("__") and isinstance(args[0], torch.Tensor)):
            target = isinstance(args[0], Pretended)
        return _placed(out, inside if target is None else target)


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for one in values:
        if isinstance(one, torch.Tensor):
            yield one
        elif type(one) in (list, tuple):
            yield from _tensors(one)
        elif type(one) is dict:
            yield from _tensors(one.values())


def _placed(out: Any, there: bool) -> Any:
    if isinstance(out, torch.Tensor):
        if isinstance(out, Pretended) == there:
            return out
        with torch._C.DisableTorchFunctionSubclass():
            return out.as_subclass(Pretended if there else torch.Tensor)
    if isinstance(out, list | tuple):
        parts = [_placed(one, there) for one in out]
        return type(out)(parts) if type(out) in (list, tuple) or not hasattr(out, "_fields") else type(out)(*parts)
    return out


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", name)
    return name


def _require_one_device(name: str, args: Any, tensors: list[torch.Tensor]) -> None:
    if name in _AS_INDEX:
        indexed, value = args[0], args[2] if len(args) > 2 else None
        index = list(_tensors((args[1],)))
        if not isinstance(indexed, Pretended) and any(isinstance(one, Pretended) and one.ndim for one in index):
            raise RuntimeError(f"{name}: indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        tensors = [one for one in (indexed, value) if isinstance(one, torch.Tensor)]
        if not any(isinstance(one, Pretended) for one in tensors):
            return
    outside = [tuple(one.shape) for one in tensors if not isinstance(one, Pretended) and one.ndim]
    if outside:
        raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found cuda:0 and cpu {outside}")


def _plain_device(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("cpu")
    return "cpu" if isinstance(value, str) and value.startswith("cuda") else value


def _target(name: str, args: Any, kwargs: Any) -> bool | None:
    """Whether the result is on the device; None where it follows from the arguments."""
    if name == "cpu":
        return False
    asked = kwargs.get("device")
    if name == "to":
        for one in args[1:]:
            if isinstance(one, torch.Tensor):
                return isinstance(one, Pretended)
            if isinstance(one, torch.device | str):
                asked = one
    if asked is None:
        return None
    return torch.device(asked).type == "cuda"
