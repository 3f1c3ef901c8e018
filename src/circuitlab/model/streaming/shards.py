"""The tensors of a folder of safetensors files, read by name, by row, or into memory that is reused."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from circuitlab.core.errors import WeightsError
from circuitlab.model.weights.folder import stored_tensors

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["ALIGNED", "Shards", "TensorLocation"]

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_RELOAD = "Copy the folder again if it is damaged, and load the model again."
ALIGNED = 64
"""Bytes to which tensors are aligned in a buffer, as torch aligns its own: how a product is rounded may depend on it."""


class TensorLocation(NamedTuple):
    """Where a tensor lies: its file (an index of `Shards.files`), first byte, size in bytes, dtype and shape."""

    file: int
    offset: int
    size: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class Shards:
    """Open safetensors files. They are read with ``pread``, never mapped, so that what was read does not stay in memory.

    Parameters
    ----------
    folder : Path
        A folder written by ``save_pretrained``.

    Raises
    ------
    WeightsError
        If a file is missing, truncated or damaged, or a tensor is not of a floating-point dtype.
    """

    def __init__(self, folder: Path) -> None:
        self._handles: list[int] = []
        stored = stored_tensors(folder)  # checks every header against the size of its file
        self.files: list[Path] = sorted({tensor.file for tensor in stored.values()})
        try:
            self._handles.extend(os.open(path, os.O_RDONLY) for path in self.files)
            self._states = [_state(handle) for handle in self._handles]
            self.places: Mapping[str, TensorLocation] = {name: place for i in range(len(self.files)) for name, place in self._header(i)}
        except BaseException:
            self.close()
            raise

    def _header(self, file: int) -> Iterator[tuple[str, TensorLocation]]:
        handle = self._handles[file]
        length = int.from_bytes(os.pread(handle, 8, 0), "little")
        for name, about in json.loads(os.pread(handle, length, 8)).items():
            if name == "__metadata__":
                continue
            if about["dtype"] not in _DTYPES:
                what = f"{self.files[file]} holds {name!r} as {about['dtype']}; only floating-point weights can be streamed."
                raise WeightsError(what, "Save the model dequantised, in float32 or bfloat16.")
            start, stop = about["data_offsets"]
            yield name, TensorLocation(file, 8 + length + start, stop - start, _DTYPES[about["dtype"]], tuple(about["shape"]))

    def state(self) -> dict[str, tuple[int, int, int]]:
        """Size, time of the last write and inode of every file, by name: what its contents are recognised by."""
        return {path.name: state for path, state in zip(self.files, self._states, strict=True)}

    def require_unchanged(self) -> None:
        """Raise `WeightsError` if a file was written to, or replaced, since it was opened."""
        for index, path in enumerate(self.files):
            self._require_unchanged(index)
            if not path.exists() or path.stat().st_ino != self._states[index][2]:
                what = f"{path} was replaced or removed after the model was loaded."
                raise WeightsError(what, _RELOAD)

    def _require_unchanged(self, file: int) -> None:
        if _state(self._handles[file]) != self._states[file]:
            what = f"{self.files[file]} was written to after the model was loaded."
            raise WeightsError(what, _RELOAD)

    def read_into(self, name: str, buffer: Tensor) -> Tensor:
        """Read a tensor into a buffer of bytes, (size,), and return the buffer as that tensor.

        Raises
        ------
        WeightsError
            If the file ends before the tensor does, cannot be read, or was written to since it was opened.
        """
        place = self.places[name]
        self._fill(place.file, place.offset, memoryview(buffer.numpy()), name)
        self._require_unchanged(place.file)
        return buffer.view(place.dtype).view(place.shape)

    def _fill(self, file: int, offset: int, into: memoryview, name: str) -> None:
        done = 0
        while done < len(into):
            try:
                count = os.preadv(self._handles[file], [into[done:]], offset + done)
            except OSError as error:
                what = f"{self.files[file]} cannot be read: {error}."
                raise WeightsError(what, "Check the disk; then load the model again.") from error
            if not count:
                what = f"{self.files[file]} ends inside {name!r}: {done} of {len(into)} bytes could be read."
                raise WeightsError(what, _RELOAD)
            done += count

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """A whole tensor in memory of its own."""
        place = self.places[name]
        return self.read_into(name, torch.empty(place.size, dtype=torch.uint8)).to(dtype)

    def block(self, name: str, start: int, stop: int, dtype: torch.dtype) -> Float[Tensor, "row width"]:
        """Rows ``start`` to ``stop - 1`` of a matrix."""
        place = self.places[name]
        width = math.prod(place.shape[1:]) * place.dtype.itemsize
        raw = torch.empty((stop - start) * width, dtype=torch.uint8)
        self._fill(place.file, place.offset + start * width, memoryview(raw.numpy()), name)
        self._require_unchanged(place.file)
        return raw.view(place.dtype).view(stop - start, *place.shape[1:]).to(dtype)

    def rows(self, name: str, ids: Int[Tensor, " row"], dtype: torch.dtype) -> Float[Tensor, "row width"]:
        """Some rows of a matrix, (row, width), in this order."""
        if not len(ids):
            return torch.empty(0, *self.places[name].shape[1:], dtype=dtype)
        return torch.cat([self.block(name, row, row + 1, dtype) for row in ids.tolist()])

    def close(self) -> None:
        """Close the files."""
        while self._handles:
            os.close(self._handles.pop())

    def __del__(self) -> None:
        self.close()


def _state(handle: int) -> tuple[int, int, int]:
    about = os.fstat(handle)
    return about.st_size, about.st_mtime_ns, about.st_ino
