"""Datasets and their provenance in one netCDF file: written completely or not at all, and refused if the content was changed since.

This module knows nothing about classes of scores: the writer names the format of a file, and the reader names the one it expects.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from circuitlab.core.errors import BadParameterError, CircuitlabError, ForeignFileError, ScoreFileError
from circuitlab.core.files import read_bytes, replace_file
from circuitlab.core.provenance import SCHEMA, Provenance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import xarray as xr

__all__ = ["built_as_stored", "read_dataset", "write_dataset"]

Scores = TypeVar("Scores")

_PREFIX = "circuitlab "
"""The name of every format of this package begins with this."""
_MOST_PER_BYTE = 2000
"""Most bytes of values for a byte of the file, twice what compression can reach; a small file that claims more is not read."""


def write_dataset(path: Path, dataset: xr.Dataset, provenance: Provenance, format_name: str) -> Path:
    """Write a dataset to a netCDF 4 file.

    Parameters
    ----------
    path : Path
        Target; an existing file is replaced only once the new one is complete on disk.
    dataset : xarray.Dataset
        What to write; dtypes are kept.
    provenance : Provenance
        Where the values come from.
    format_name : str
        Name of the format: ``"circuitlab "`` followed by the name of the class that reads it.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    StoreError
        If the disk is full or the folder cannot be written; an existing file is left unchanged.
    BadParameterError
        If a value is not finite.
    """
    if name := _not_finite(dataset):
        what = f"{name!r} of {provenance.method!r} holds values that are not finite, and was not written to {path}."
        raise BadParameterError(what, "Check the metric and the dtype of the run.")
    written = dataset.copy()
    written.attrs = {
        "format": format_name,
        "schema": SCHEMA,
        "provenance": (about := msgspec.json.encode(provenance).decode()),
        "checksum": _checksum(dataset, about),
    }
    encoding = {str(name): {"zlib": True, "complevel": 4} for name, values in written.data_vars.items() if values.ndim}
    # Made in memory: on a full disk HDF5 raises errors of its own, and crashes later when it closes the file.
    data = bytes(written.to_netcdf(engine="h5netcdf", encoding=encoding))
    replace_file(path, lambda target: target.write_bytes(data))
    return path


def read_dataset(path: Path, format_name: str) -> tuple[xr.Dataset, Provenance]:
    """Read the dataset and the provenance that `write_dataset` wrote.

    Parameters
    ----------
    path : Path
        The file.
    format_name : str
        The format that the file must have.

    Raises
    ------
    ForeignFileError
        If circuitlab did not write the file.
    StoreError
        If this user may not read the file.
    ScoreFileError
        If the file does not exist, is damaged or cut short, or has a newer schema or another format.
    """
    import h5py  # noqa: PLC0415 - only files need it
    import xarray as xr  # noqa: PLC0415 - xarray costs 0.5 s

    data = read_bytes(path)
    if data is None:
        what = f"There is no score file {path}."
        raise ScoreFileError(what, "Check the path, or run the study again.")
    if data[:8] != b"\x89HDF\r\n\x1a\n":
        what = f"{path} is not a netCDF 4 file."
        raise ForeignFileError(what, f"Give a file that {format_name.removeprefix(_PREFIX)}.save or a run store has written.")
    try:
        h5py.File(path).close()  # where this fails, h5netcdf would leave a half-open file behind, which complains when it is collected
        with xr.open_dataset(path, engine="h5netcdf", phony_dims="sort") as opened:
            if opened.nbytes > _MOST_PER_BYTE * len(data):
                raise _damaged(path, f"its {len(data)} bytes claim to hold {opened.nbytes}")
            dataset = opened.load()
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise _damaged(path, f"it is cut short or altered: {type(error).__name__}") from error
    attributes, dataset.attrs = dict(dataset.attrs), {}
    for values in dataset.variables.values():
        values.encoding = {}
    provenance = _checked_provenance(path, attributes, format_name)
    checksum = attributes.get("checksum")
    if not isinstance(checksum, str) or checksum != _checksum(dataset, str(attributes["provenance"])):
        raise _damaged(path, "its values or its provenance do not match their checksum")
    if name := _not_finite(dataset):
        raise _damaged(path, f"{name!r} holds values that are not finite")
    return dataset, provenance


def built_as_stored(path: Path, build: Callable[[], Scores]) -> Scores:
    """Scores from what a file holds; a checksum that fits does not make arrays of another shape, or of none, scores.

    Raises
    ------
    ScoreFileError
        If they cannot be built from it.
    """
    try:
        return build()
    except (CircuitlabError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise _damaged(path, f"it holds no such scores ({type(error).__name__}: {error})") from error


def _checked_provenance(path: Path, attributes: Mapping[str, Any], format_name: str) -> Provenance:
    """The provenance of a file, once its format and schema are checked. Any attribute may be missing or of the wrong type."""
    actual, schema = attributes.get("format"), attributes.get("schema")
    if not (isinstance(actual, str) and actual.startswith(_PREFIX)):
        what = f"{path} is a netCDF file that circuitlab did not write."
        raise ForeignFileError(what, f"Give a file that {format_name.removeprefix(_PREFIX)}.save or a run store has written.")
    if actual != format_name:
        what = f"{path} holds {actual.removeprefix(_PREFIX)}, not {format_name.removeprefix(_PREFIX)}."
        raise ScoreFileError(what, f"Read it with {actual.removeprefix(_PREFIX)}.load.")
    if isinstance(schema, bool) or not isinstance(schema, int | np.integer):
        raise _damaged(path, f"its schema is {schema!r}")
    if schema > SCHEMA:
        what = f"{path} has schema {schema}; this version reads schemas up to {SCHEMA}."
        raise ScoreFileError(what, "Upgrade circuitlab, or compute the run again.")
    try:
        return msgspec.json.decode(attributes.get("provenance", b""), type=Provenance)
    except (msgspec.MsgspecError, RecursionError, TypeError, UnicodeError) as error:
        raise _damaged(path, f"its provenance cannot be read: {error}") from error


def _not_finite(dataset: xr.Dataset) -> str:
    """Name of a variable with NaN or infinity in it; empty if there is none."""
    arrays = {str(name): values.values for name, values in dataset.data_vars.items() if values.dtype.kind == "f"}
    return next((name for name, array in arrays.items() if not np.isfinite(array).all()), "")


def _damaged(path: Path, problem: str) -> ScoreFileError:
    return ScoreFileError(f"{path} is damaged ({problem}).", "Remove it and compute the run again.")


def _checksum(dataset: xr.Dataset, provenance: str) -> str:
    total = hashlib.sha256(provenance.encode())
    for name in sorted(map(str, dataset.data_vars)):
        values = np.ascontiguousarray(dataset[name].values)
        total.update(f"{name} {dataset[name].dims} {values.shape} {values.dtype.str}".encode(errors="backslashreplace"))
        total.update(values.tobytes())
    return total.hexdigest()
