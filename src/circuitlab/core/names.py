"""Names that become file names: one check for studies, tasks, runs and everything else that is stored under its own name."""

from __future__ import annotations

import re
import unicodedata

from circuitlab.core.errors import BadParameterError, CircuitlabError

__all__ = ["require_file_name"]

_LONGEST = 120
"""Bytes in UTF-8. Most file systems allow 255, and stores append endings, keys and the suffixes of temporary files."""

_FORBIDDEN = frozenset('/\\<>:"|?*')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names that Windows reserves for devices, with any ending."""

_FIX = "Use letters, digits, '-', '_' and dots inside the name, for example 'my_study-2'."


def require_file_name(kind: str, name: str, error: type[CircuitlabError] = BadParameterError) -> str:
    """Check that a file can have this name on every system without leaving its folder.

    Parameters
    ----------
    kind : str
        What the name belongs to, for the message: ``"study id"``.
    name : str
        The name, without ending.
    error : type of CircuitlabError
        Class of the error to raise.

    Returns
    -------
    str
        ``name``, unchanged.

    Raises
    ------
    CircuitlabError
        If the name is empty or longer than 120 bytes, begins or ends with a dot or a space, contains a separator, a control or formatting
        character or one that Windows reserves, or is the name of a Windows device.

    Examples
    --------
    >>> require_file_name("study id", "core")
    'core'
    """
    if problem := _problem(name):
        shown = repr(name if len(name) <= _LONGEST else f"{name[:40]}...")
        raise error(f"{shown} cannot be a {kind}: {problem}.", _FIX)
    return name


def _problem(name: str) -> str:
    """Why a file cannot have this name; empty if it can."""
    control = [char for char in name if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"]
    forbidden = sorted(_FORBIDDEN.intersection(name))
    size = len(name.encode(errors="replace"))
    problems = {
        "it is empty": not name,
        f"it holds the control character {(control or [''])[0]!a}": control,
        f"it holds {' '.join(forbidden)}, and becomes a file name": forbidden,
        f"it has {size} bytes, and at most {_LONGEST} fit into a file name": size > _LONGEST,
        "it begins or ends with a dot": name.startswith(".") or name.endswith("."),
        "it begins or ends with a space": name != name.strip(),
        "Windows keeps this name for a device": _DEVICES.fullmatch(name),
    }
    return next((problem for problem, applies in problems.items() if applies), "")
