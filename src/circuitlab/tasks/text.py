"""Reading text files in UTF-8, with or without a byte-order mark; a file that is not UTF-8 is refused with the byte where it fails."""

from __future__ import annotations

import codecs
import re
import tomllib
from pathlib import Path
from typing import Any

from circuitlab.core.errors import CircuitlabError, TaskFileError
from circuitlab.core.names import require_file_name

__all__ = ["read_text", "read_toml", "table_path"]

_OTHER_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
"""Byte-order marks of other encodings; those of UTF-32 come first, since one of them begins like one of UTF-16."""

_PART = r"(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')"
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{200}}")
"""A dotted key that no file has: the reader of TOML looks through all parts before each part."""

_FIX = "Save it as UTF-8 (in Excel: 'CSV UTF-8'; in an editor: Save with encoding)."


def read_text(path: Path, error: type[CircuitlabError] = TaskFileError) -> str:
    """The content of a text file, without a byte-order mark and with its line ends unchanged.

    Parameters
    ----------
    path : Path
        The file.
    error : type of CircuitlabError
        Class of the error to raise.

    Raises
    ------
    CircuitlabError
        If the file cannot be read or is not UTF-8; the message gives the byte, its offset and its line.
    """
    try:
        data = path.read_bytes()
    except OSError as problem:
        what = f"{path} cannot be read: {problem.strerror or problem}."
        raise error(what, "Check the path and its permissions.") from problem
    for mark, encoding in _OTHER_MARKS.items():
        if data.startswith(mark):
            raise error(f"{path} is {encoding} (byte offset 0: its byte-order mark {mark.hex(' ')}).", _FIX)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        what = f"{path} is not UTF-8: byte 0x{data[problem.start]:02x} at byte offset {problem.start} (line {line})."
        raise error(what, _FIX) from problem
    if (offset := data.find(b"\0")) >= 0:
        what = f"{path} holds a zero byte at byte offset {offset}: it is UTF-16 without a byte-order mark, or not a text file."
        raise error(what, _FIX)
    return text


def read_toml(path: Path, error: type[CircuitlabError] = TaskFileError) -> dict[str, Any]:
    """The content of a TOML file.

    Raises
    ------
    TOMLDecodeError, RecursionError
        If it is not TOML, or nested too deeply.
    CircuitlabError
        If the file cannot be read, or a key has hundreds of parts, whose reading takes minutes.
    """
    text = read_text(path, error)
    if long := _LONG_KEY.search(text):
        line = text.count("\n", 0, long.start()) + 1
        what = f"{path} has a key of hundreds of parts in line {line}: {long[0][:40]}..."
        raise error(what, "Write tables and fields as tasks/README.md does.")
    return tomllib.loads(text)


def table_path(folder: Path, file: str) -> Path:
    """The path of a task's table, which lies in the task's folder: a task file from elsewhere cannot name other files of this machine.

    Raises
    ------
    TaskFileError
        If the name has a folder in it, or is a link that leaves the folder.
    """
    require_file_name("table beside a task file", file, TaskFileError)
    path = folder / file
    if path.exists() and path.resolve().parent != folder.resolve():
        raise TaskFileError(f"{file} in {folder} is a link to another folder.", "Put the table itself beside the task file.")
    return path
