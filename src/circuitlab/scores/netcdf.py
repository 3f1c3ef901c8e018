"""Scores as one netCDF file: written whole or not at all, and read only when every byte is what was written."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from circuitlab.errors import ForeignFileError, ScoreFileError, StoreError
from circuitlab.provenance import SCHEMA, Provenance
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    import xarray as xr

    from circuitlab.scores.edge_scores import EdgeScores

__all__ = ["read", "read_bytes", "read_dataset", "replace_file", "write"]

_FORMATS = {"HeadScores": "circuitlab scores", "EdgeScores": "circuitlab edge scores"}
"""The format a file names, by the class that it holds."""


def write(scores: HeadScores | EdgeScores, path: Path) -> Path:
    """Write scores to a netCDF 4 file.

    Parameters
    ----------
    scores : HeadScores or EdgeScores
        What to write; dtypes are kept.
    path : Path
        Target. An existing file is replaced only once the new one is complete on disk.

    Raises
    ------
    StoreError
        If the disk is full or the folder cannot be written; a file that was there before stays as it was.
    """
    dataset = scores.dataset.copy()
    dataset.attrs = {
        "format": _FORMATS["HeadScores" if isinstance(scores, HeadScores) else "EdgeScores"],
        "schema": SCHEMA,
        "provenance": msgspec.json.encode(scores.provenance).decode(),
        "checksum": _checksum(scores.dataset),
    }
    encoding = {str(name): {"zlib": True, "complevel": 4} for name, values in dataset.data_vars.items() if values.ndim}
    replace_file(path, lambda target: dataset.to_netcdf(target, engine="h5netcdf", encoding=encoding))
    return path


def replace_file(path: Path, fill: object) -> None:
    """Let ``fill(temporary_path)`` make a file beside ``path``, then move it into place in one step.

    Raises
    ------
    StoreError
        On any operating-system error (full disk, no permission); the temporary file is removed and ``path`` untouched.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = str(path.parent / f".{path.name}.{secrets.token_hex(4)}.part")
        # Not tempfile, whose files only their owner may read: a shared store follows the umask and the folder's own rules.
        os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        temporary = beside
        fill(Path(temporary))  # type: ignore[operator]
        with Path(temporary).open("rb+") as done:
            os.fsync(done.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error.strerror or error)
        what = f"Could not write {path}: {reason}."
        raise StoreError(what, "Nothing was changed; free some space or choose another folder, then run again.") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def read_bytes(path: Path) -> bytes | None:
    """A file's content, or None where there is no file.

    Raises
    ------
    StoreError
        If the operating system does not let this user read it. Such a file is not damaged.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        what = f"{path} cannot be read: {error.strerror or error}."
        raise StoreError(what, "Ask its owner for permission to read it, or use a store of your own (CIRCUITLAB_STORE).") from error


def read(path: Path) -> HeadScores:
    """Read HeadScores written by `write`; raises what `read_dataset` raises."""
    return HeadScores(*read_dataset(path, "HeadScores"))


def read_dataset(path: Path, kind: str) -> tuple[xr.Dataset, Provenance]:
    """Read the two halves of scores written by `write`.

    Parameters
    ----------
    path : Path
        The file.
    kind : {"HeadScores", "EdgeScores"}
        What it must hold.

    Raises
    ------
    ForeignFileError
        If circuitlab did not write the file.
    StoreError
        If this user may not read the file.
    ScoreFileError
        If there is no such file, it is damaged or cut short, it has a newer schema, or it holds the other kind of scores.
    """
    import xarray as xr  # noqa: PLC0415

    data = read_bytes(path)
    if data is None:
        what = f"There is no score file {path}."
        raise ScoreFileError(what, "Check the path, or run the study again.")
    if data[:8] != b"\x89HDF\r\n\x1a\n":
        what = f"{path} is no netCDF 4 file."
        raise ForeignFileError(what, f"Give a file written by {kind}.save or a run store.")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            dataset = opened.load()
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        what = f"{path} is damaged or cut short ({type(error).__name__})."
        raise ScoreFileError(what, "Remove it and compute the run again.") from error
    attributes, dataset.attrs = dict(dataset.attrs), {}
    held = {name: known for known, name in _FORMATS.items()}.get(attributes.get("format", ""))
    if held is None:
        what = f"{path} is a netCDF file that circuitlab did not write."
        raise ForeignFileError(what, f"Give a file written by {kind}.save or a run store.")
    if held != kind:
        what = f"{path} holds {held}, not {kind}."
        raise ScoreFileError(what, f"Read it with {held}.load.")
    if int(attributes["schema"]) > SCHEMA:
        what = f"{path} has schema {attributes['schema']}; this version reads schemas up to {SCHEMA}."
        raise ScoreFileError(what, "Upgrade circuitlab, or compute the run again.")
    for values in dataset.variables.values():
        values.encoding = {}
    if attributes["checksum"] != _checksum(dataset):
        what = f"{path} is damaged: its values do not match their checksum."
        raise ScoreFileError(what, "Remove it and compute the run again.")
    return dataset, msgspec.json.decode(attributes["provenance"], type=Provenance)


def _checksum(dataset: xr.Dataset) -> str:
    total = hashlib.sha256()
    for name in sorted(map(str, dataset.data_vars)):
        values = np.ascontiguousarray(dataset[name].values)
        total.update(f"{name} {dataset[name].dims} {values.shape} {values.dtype.str}".encode())
        total.update(values.tobytes())
    return total.hexdigest()
