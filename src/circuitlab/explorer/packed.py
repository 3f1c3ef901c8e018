"""Arrays as the explorer's payload carries them: base64 of little-endian numbers, with their shape."""

from __future__ import annotations

import base64
from typing import Any, Literal, TypeAlias

import numpy as np

from circuitlab.core.errors import BadParameterError

__all__ = ["Packed", "PackedType", "pack", "pack_byte", "pack_rounded", "unpack"]

PackedType: TypeAlias = Literal["float32", "int16", "uint16", "uint8"]
Packed: TypeAlias = dict[str, Any]

_MISSING = -32768
"""Stands for NaN among 16-bit integers with a sign."""
_LARGEST = 32767
_BYTE = 255
_ORDER = {"float32": "<f4", "int16": "<i2", "uint16": "<u2", "uint8": "|u1"}


def pack(values: np.ndarray, kind: PackedType = "float32", scale: float | None = None) -> Packed:
    """Pack an array; integers stand for value / ``scale``.

    Parameters
    ----------
    values : ndarray
        Of any shape. NaN is kept in float32 and int16, and refused in unsigned integers.
    kind : {"float32", "int16", "uint16", "uint8"}
        How numbers are written.
    scale : float, optional
        What an integer of 1 stands for; 1 if not given.

    Returns
    -------
    dict
        ``{"type", "shape", "scale", "base64"}``, without scale where there is none.

    Raises
    ------
    BadParameterError
        If a value does not fit.

    Examples
    --------
    >>> pack(np.array([1, 2, 255]), "uint8")
    {'type': 'uint8', 'shape': [3], 'base64': 'AQL/'}
    """
    array = np.asarray(values, dtype=np.float64) / (scale or 1.0)
    if kind != "float32":
        array = _as_integers(array, kind)
    data = base64.b64encode(np.ascontiguousarray(array, dtype=_ORDER[kind]).tobytes()).decode("ascii")
    about: Packed = {"type": kind, "shape": list(array.shape)} | ({} if scale is None else {"scale": scale})
    return about | {"base64": data}


def _as_integers(array: np.ndarray, kind: PackedType) -> np.ndarray:
    missing = np.isnan(array)
    if missing.any() and kind != "int16":
        raise BadParameterError(f"{int(missing.sum())} values are not numbers, which {kind} cannot hold.", "Pack them as float32.")
    rounded = np.rint(np.where(missing, 0.0, array))
    limits = np.iinfo(kind)
    least = -_LARGEST if kind == "int16" else limits.min
    if rounded.size and (rounded.min() < least or rounded.max() > limits.max):
        what = f"Values from {rounded.min():g} to {rounded.max():g} do not fit {kind}."
        raise BadParameterError(what, "Use a larger scale.")
    return np.where(missing, _MISSING, rounded)


def pack_rounded(values: np.ndarray) -> Packed:
    """Pack as 16-bit integers, each value rounded to 1/65534 of the largest magnitude; NaN is kept."""
    array = np.asarray(values, dtype=np.float64)
    largest = float(np.nanmax(np.abs(array))) if np.isfinite(array).any() else 0.0
    return pack(array, "int16", largest / _LARGEST if largest > 0 else 1.0)


def pack_byte(values: np.ndarray) -> Packed:
    """Pack values of 0 and above as bytes, each rounded to 1/255 of the largest."""
    array = np.asarray(values, dtype=np.float64)
    largest = float(array.max()) if array.size else 0.0
    return pack(array, "uint8", largest / _BYTE if largest > 0 else 1.0)


def unpack(packed: Packed) -> np.ndarray:
    """The array that was packed, as float64; for tests and for what is drawn without scripts."""
    raw = np.frombuffer(base64.b64decode(packed["base64"]), dtype=_ORDER[packed["type"]]).astype(np.float64)
    if packed["type"] == "int16":
        raw[raw == _MISSING] = np.nan
    return (raw * packed.get("scale", 1.0)).reshape(packed["shape"])
