"""The device that a model runs on: named, checked before anything is read, and one for all of its weights."""

from __future__ import annotations

from typing import Any

import torch

from circuitlab.core.errors import BadParameterError, ModelError

__all__ = ["require_device", "require_one_device"]


def require_device(name: str) -> torch.device:
    """The device of this name, if a model can run there.

    Parameters
    ----------
    name : str
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    Raises
    ------
    BadParameterError
        If it is not there, or of a kind that is not supported.

    Examples
    --------
    >>> require_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise BadParameterError(f"device={name!r} is not the name of a device.", "Use 'cpu', 'cuda' or 'cuda:1'.") from error
    if device.type == "mps":
        what = "device='mps' has no numbers of 64 bits, in which shares of a logit are summed."
        raise BadParameterError(what, "Use 'cpu'.")
    if device.type not in {"cpu", "cuda"}:
        raise BadParameterError(f"device={name!r} is not supported.", "Use 'cpu' or 'cuda'.")
    if device.type == "cuda":
        _require_cuda(device)
    return device


def _require_cuda(device: torch.device) -> None:
    if not torch.cuda.is_available():
        cuda = torch.version.cuda
        build = "was built without CUDA" if cuda is None else f"was built for CUDA {cuda}, and finds no driver or card"
        what = f"device={str(device)!r}: there is no CUDA device here (PyTorch {torch.__version__} {build})."
        raise BadParameterError(what, "Use device='cpu', or install PyTorch for CUDA on a machine with a card.")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise BadParameterError(f"device={str(device)!r}: there are {count} CUDA devices, counted from 0.", "Name one of these.")


def require_one_device(root: Any, name: str) -> None:
    """Raise `ModelError` unless all weights of a model are in the memory of one device, of a kind that is supported.

    Spreading layers over devices (``device_map``) is not supported: values of several layers are stacked and added.
    """
    devices = sorted({str(value.device) for part in (root.parameters(), root.buffers()) for value in part})
    if "meta" in devices:
        raise ModelError(f"{name} has weights that are not in memory (device 'meta').", "Load them, without offloading.")
    if len(devices) > 1:
        what = f"{name} is spread over {', '.join(devices)}; circuitlab runs a model on one device."
        raise ModelError(what, "Load it without device_map, or move it to one device: model.to('cuda').")
    for device in devices:
        if torch.device(device).type not in {"cpu", "cuda"}:
            raise ModelError(f"{name} is on {device}, which is not supported.", "Move it to 'cpu' or 'cuda'.")
