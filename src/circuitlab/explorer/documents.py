"""Look through the documents of a store for those about some model or run; nothing but JSON is read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from circuitlab.core.errors import ScoreFileError
from circuitlab.core.files import read_bytes
from circuitlab.core.provenance import Environment, Provenance
from circuitlab.store import Cache, Document, Documents
from circuitlab.store.codecs import HEAD_SCORES, ScoreFiles, Sidecar

__all__ = ["about_model", "documents_about", "documents_named", "is_name", "stored_provenances"]


class _Peek(msgspec.Struct, frozen=True):
    """What tells whether a document is wanted."""

    about: dict[str, Any]
    environment: Environment


def documents_about(cache: Cache, codec: Documents, wanted: Callable[[Mapping[str, Any]], bool]) -> list[Document]:
    """Documents of one kind whose ``about`` is wanted, the newest first.

    A file that cannot be read is named in a warning and left where it is: what it was about is not known.
    """
    matching: list[tuple[str, Path]] = []
    for name in cache.list(codec):
        path = cache.root / codec.folder / f"{name}{codec.suffix}"
        try:
            peek = msgspec.json.decode(read_bytes(path) or b"", type=_Peek)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            warnings.warn(f"{path} cannot be read ({error}) and is left out.", stacklevel=2)
            continue
        if wanted(peek.about):
            matching.append((peek.environment.created, path))
    ordered = sorted(matching, key=lambda entry: (entry[0], entry[1].name), reverse=True)
    return [document for _, path in ordered if (document := _read(codec, path)) is not None]


def documents_named(cache: Cache, codec: Documents, names: Sequence[str]) -> list[Document]:
    """Documents of one kind by the names of their files, the newest first; those that are gone are left out.

    Names come from a record that anybody may have written: one that is no hash names nothing, least of all a file outside the store.
    """
    paths = [cache.root / codec.folder / f"{name}{codec.suffix}" for name in names if is_name(name)]
    documents = [document for path in paths if path.is_file() and (document := _read(codec, path)) is not None]
    return sorted(documents, key=lambda one: (one.environment.created, codec.name(one.about)), reverse=True)


def is_name(name: object) -> bool:
    """Whether this can be the name of a stored result: letters and digits."""
    return isinstance(name, str) and name.isalnum() and name.isascii()


def _read(codec: Documents, path: Path) -> Document | None:
    """A document, or None with a warning."""
    try:
        return codec.read(path, {})
    except ScoreFileError as error:
        warnings.warn(f"{error} It is left out.", stacklevel=3)
        return None


def about_model(identities: list[dict[str, str]]) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a document is about one of these models."""
    return lambda about: about.get("model") in identities


def stored_provenances(cache: Cache, codec: ScoreFiles[Any] = HEAD_SCORES) -> dict[str, Provenance]:
    """Provenance of every stored run by run id, from the JSON beside it; of scores of nodes, or of edges."""
    runs: dict[str, Provenance] = {}
    for run_id in cache.list(codec):
        path = cache.path(run_id, codec).with_suffix(".json")
        data = read_bytes(path) if path.exists() else None
        try:
            runs[run_id] = cache.read(run_id, codec).provenance if data is None else msgspec.json.decode(data, type=Sidecar).provenance
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ScoreFileError) as error:
            warnings.warn(f"Run {run_id} in {cache.root} cannot be read ({error}) and is left out.", stacklevel=2)
    return runs
