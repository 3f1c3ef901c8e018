"""Results in plain data, one JSON file each, named by the hash of everything that they depend on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from circuitlab.core.errors import StoreError
from circuitlab.core.files import quarantine, require_writable
from circuitlab.core.provenance import Environment, capture_environment, digest

__all__ = ["Document", "DocumentStore"]

_SCHEMA = 1


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds.

    Parameters
    ----------
    about : dict
        Everything that the result depends on; its hash is the file's name.
    result : dict
        Plain data; NaN is null.
    checksum : str
        Hash of the result.
    environment : Environment
        When and with what it was made; no part of the identity.
    schema : int
        Version of this layout.
    """

    about: dict[str, Any]
    result: dict[str, Any]
    checksum: str
    environment: Environment
    schema: int = _SCHEMA


class DocumentStore:
    """A folder of results.

    Parameters
    ----------
    root : Path
        The folder; made when the first result is stored.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, about: Mapping[str, Any]) -> Path:
        """Where the result that depends on these things lies."""
        return self.root / f"{digest(about)[:16]}.json"

    def get(self, about: Mapping[str, Any]) -> Document | None:
        """The stored result, or None. A damaged or newer file is named in a warning and moved into ``damaged/``.

        Raises
        ------
        StoreError
            If this user may not read the file, which does not make it damaged.
        """
        from circuitlab.core.files import read_bytes  # noqa: PLC0415 - h5py is slow to import

        path = self.path(about)
        data = read_bytes(path)
        if data is None:
            return None
        try:
            found = msgspec.json.decode(data, type=Document)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            problem = f"it cannot be read ({error})"
        else:
            problem = _problem(found, path)
            if not problem:
                return found
        quarantine((path,), self.root / "damaged", problem)
        return None

    def put(self, about: Mapping[str, Any], result: Mapping[str, Any], *, seconds: float = 0.0) -> Document:
        """Store a result in one step, and give it as it will be read back.

        Raises
        ------
        StoreError
            If the disk is full or the folder cannot be written, or a value is no plain data.
        """
        from circuitlab.core.files import replace_file  # noqa: PLC0415 - h5py is slow to import

        try:
            plain, identity = (msgspec.json.decode(msgspec.json.encode(dict(part))) for part in (result, about))
        except (TypeError, msgspec.MsgspecError) as error:
            what = f"A result for {self.root} is no plain data: {error}."
            raise StoreError(what, "Give dictionaries, lists, text and numbers.") from error
        document = Document(about=identity, result=plain, checksum=digest(plain), environment=capture_environment(seconds))
        text = msgspec.json.format(msgspec.json.encode(document), indent=1)
        replace_file(self.path(about), lambda target: target.write_bytes(text))
        return document

    def get_or_compute(self, about: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> tuple[dict[str, Any], bool]:
        """The stored result, or the computed one after storing it; also says whether it was stored before.

        Both come as they are read back: NaN is None.

        Raises
        ------
        StoreError
            If the folder cannot be written (before anything is computed), or a stored file not be read.
        """
        if (found := self.get(about)) is not None:
            return found.result, True
        require_writable(self.root)
        started = time.perf_counter()
        result = compute()
        return self.put(about, result, seconds=time.perf_counter() - started).result, False


def _problem(found: Document, path: Path) -> str:
    """What is wrong with a file that could be read; "" if nothing."""
    if found.schema != _SCHEMA:
        return f"it has schema {found.schema}, and this version reads {_SCHEMA}"
    if digest(found.about)[:16] != path.stem:
        return "it is named after another result"
    return "" if digest(found.result) == found.checksum else "its values do not match their checksum"
