"""Whether a folder can be written, asked before the work whose results are to be kept there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from circuitlab.errors import StoreError

__all__ = ["require_writable"]


def require_writable(folder: Path) -> None:
    """Make the folder if need be, and write and remove an empty file in it.

    Raises
    ------
    StoreError
        If the operating system does not allow it.
    """
    probe = folder / f".{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        probe.unlink()
    except OSError as error:
        what = f"The store {folder} cannot be written: {error.strerror or error}."
        raise StoreError(what, "Nothing was computed; choose another store (CIRCUITLAB_STORE), or free space and permissions.") from error
