"""Checkpoint: the arrays of an unfinished computation, in one small file that is removed when the result is stored."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from circuitlab.core.files import read_bytes, replace_file

__all__ = ["Checkpoint"]

_DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError)
"""Raised by zipfile and numpy for damaged files; a RuntimeError for an archive that claims to be encrypted or of a later version."""


@dataclass(frozen=True)
class Checkpoint:
    """The arrays of an unfinished computation, kept in the file ``path``."""

    path: Path

    def load(self) -> dict[str, np.ndarray]:
        """The arrays that were saved last, by name; empty if there are none. A damaged file is named in a warning and ignored.

        Raises
        ------
        StoreError
            If this user may not read the file.
        """
        data = read_bytes(self.path)
        if data is None:
            return {}
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (*_DAMAGE, zipfile.BadZipFile, zlib.error, struct.error) as error:
            warnings.warn(f"{self.path} is damaged ({type(error).__name__}): what it held is computed again.", stacklevel=2)
            return {}

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays, replacing an existing file in one step.

        Raises
        ------
        StoreError
            If the disk is full or the folder cannot be written.
        """

        def fill(target: Path) -> None:
            with target.open("wb") as handle:  # numpy appends ".npz" to a path, but not to an open file
                np.savez(handle, **dict(arrays))  # type: ignore[arg-type]

        replace_file(self.path, fill)

    def clear(self) -> None:
        """Remove the file once the result is stored. One that this user may not remove is left: it is not read when there is a result."""
        with contextlib.suppress(OSError):  # no permission, or a file system that has become read-only
            self.path.unlink(missing_ok=True)
