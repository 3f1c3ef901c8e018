"""The finished rows of a run that is not finished: one small file beside the runs, gone when the run is stored."""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["PartialRun"]


@dataclass(frozen=True)
class PartialRun:
    """Rows of one run, kept in ``path``."""

    path: Path

    def load(self) -> dict[str, np.ndarray]:
        """The arrays that were saved last; empty if there are none. A damaged file is named in a warning and not used.

        Raises
        ------
        StoreError
            If this user may not read the file.
        """
        from circuitlab.scores.netcdf import read_bytes  # noqa: PLC0415 - h5py is slow to import

        data = read_bytes(self.path)
        if data is None:
            return {}
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            warnings.warn(f"{self.path} is damaged ({type(error).__name__}): its rows are computed again.", stacklevel=2)
            return {}

    def save(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the file in one step.

        Raises
        ------
        StoreError
            If the disk is full or the folder cannot be written.
        """
        from circuitlab.scores.netcdf import replace_file  # noqa: PLC0415 - h5py is slow to import

        def fill(target: Path) -> None:
            with target.open("wb") as handle:  # given a name, numpy would add ".npz" to it
                np.savez(handle, **dict(arrays))  # type: ignore[arg-type]

        replace_file(self.path, fill)

    def clear(self) -> None:
        """Remove the file; the run is stored. A file that this user may not remove stays: it is never read once there is a run."""
        with contextlib.suppress(PermissionError):
            self.path.unlink(missing_ok=True)
