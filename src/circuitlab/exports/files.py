"""What exports share: plain JSON in one step, and its reading with problems named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from circuitlab.core.errors import BadParameterError, IncompatibleError, ScoreFileError
from circuitlab.core.files import read_bytes, replace_file
from circuitlab.core.provenance import ModelSpec

__all__ = ["read_json", "require_shape", "write_json"]


def write_json(path: Path, value: Any, *, indent: int = 0) -> None:
    """Write one JSON document, completely or not at all.

    Raises
    ------
    StoreError
        If it cannot be written.
    """
    text = msgspec.json.encode(value)
    if indent:
        text = msgspec.json.format(text, indent=indent)
    replace_file(path, lambda target: target.write_bytes(text))


def read_json(path: Path, kind: Any) -> Any:
    """A JSON document of a type.

    Raises
    ------
    BadParameterError
        If there is no such file.
    ScoreFileError
        If it is no such document.
    """
    data = read_bytes(path)
    if data is None:
        raise BadParameterError(f"There is no file {path}.", "Check the name, or write the export again.")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ScoreFileError(f"{path} is not what it should be: {error}.", "Write the export again.") from error


def require_shape(path: Path, found: tuple[int, ...], model: ModelSpec | None) -> None:
    """Raise `IncompatibleError` if layers and key/value heads of a file are not those of a model."""
    if model is not None and found != (model.n_layers, model.n_kv_heads):
        what = f"{path} has {found[0]} layers of {found[1]} key/value heads; {model.name} has {model.n_layers} of {model.n_kv_heads}."
        raise IncompatibleError(what, "Read the file of this model.")
