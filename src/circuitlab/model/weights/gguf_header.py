"""The header of a GGUF file, walked before a library reads it: a small file may claim an array of any length, and libraries count it."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from circuitlab.core.errors import WeightsError

__all__ = ["check_header"]

_MAGIC = b"GGUF"
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a number, by its type."""
_TEXT, _ARRAY = 8, 9
_LEAST = {_TEXT: 8, _ARRAY: 12}
"""Fewest bytes of what has no fixed size."""
_DEEPEST = 8
"""Arrays in arrays; files in use have none."""


def check_header(path: Path) -> None:
    """Raise `WeightsError` unless the file begins as a GGUF file does, and everything that its metadata claim to hold fits into it.

    Time and memory grow with the size of the file, never with a number in it.
    """
    try:
        with path.open("rb") as handle:
            if handle.read(len(_MAGIC)) != _MAGIC:
                what = f"{path} is not a GGUF file: it does not begin with 'GGUF'."
                fix = "Give the folder that contains it." if path.suffix in {".safetensors", ".bin", ".json", ".pt"} else ""
                raise WeightsError(what, fix or "Give a GGUF file or a Hugging Face folder.")
            try:
                _walk(handle)
            except ValueError as error:
                what = f"{path} is cut short or damaged ({os.fstat(handle.fileno()).st_size} bytes): {error}."
                raise WeightsError(what, "Download it again.") from error
    except OSError as error:
        what = f"{path} cannot be read: {error}."
        raise WeightsError(what, "Check its permissions.") from error


@dataclass(frozen=True)
class _Reader:
    """Numbers and texts of a file, whose size bounds whatever it claims to hold."""

    handle: BinaryIO
    size: int
    order: str

    def take(self, count: int, what: str, size: int = 1) -> bytes:
        """The next bytes: ``count`` times ``size``."""
        return self.handle.read(self.fits(count, what, size))

    def fits(self, count: int, what: str, size: int) -> int:
        """Bytes of ``count`` entries; raises if the file is too short for them."""
        left = self.size - self.handle.tell()
        if count * size > left:
            raise ValueError(f"{what} claims {count} entries, and {left} bytes are left")
        return count * size

    def number(self, kind: str, what: str) -> int:
        """The next number, of a format of `struct`."""
        size = struct.calcsize(kind)
        return int(struct.unpack(self.order + kind, self.take(1, what, size))[0])

    def skip(self, kind: int, what: str, depth: int = 0) -> None:
        """Pass over one value."""
        if kind in _SIZES:
            self.take(1, what, _SIZES[kind])
        elif kind == _TEXT:
            self.handle.seek(self.fits(self.number("Q", what), what, 1), os.SEEK_CUR)
        elif kind == _ARRAY and depth < _DEEPEST:
            inner, count = self.number("I", what), self.number("Q", what)
            if inner in _SIZES:
                self.handle.seek(self.fits(count, what, _SIZES[inner]), os.SEEK_CUR)
                return
            self.fits(count, what, _LEAST.get(inner, 1))
            for _ in range(count):
                self.skip(inner, what, depth + 1)
        else:
            raise ValueError(f"{what} is of type {kind}" + (f", {depth} arrays deep" if depth else ""))


def _walk(handle: BinaryIO) -> None:
    """Pass over all metadata; tensors are checked by the library, which stops where they do not fit."""
    start = handle.read(4)
    order = ">" if len(start) == 4 and not struct.unpack("<I", start)[0] & 0xFFFF else "<"  # noqa: PLR2004 - bytes of the version
    reader = _Reader(handle, os.fstat(handle.fileno()).st_size, order)
    reader.fits(2, "the header", 8)
    tensors, entries = reader.number("Q", "the header"), reader.number("Q", "the header")
    reader.fits(tensors, "the table of tensors", 24)
    reader.fits(entries, "the metadata", 12)
    for number in range(entries):
        where = f"entry {number} of the metadata"
        name = reader.take(reader.number("Q", where), where).decode(errors="replace")
        reader.skip(reader.number("I", where), f"the metadata {name[:60]!r}")
