"""Names that become file names: one check for studies, tasks, runs and whatever else is stored under its own name."""

from __future__ import annotations

import re
import unicodedata

from circuitlab.core.errors import BadParameterError, CircuitlabError

__all__ = ["require_file_name"]

_LONGEST = 120
"""Bytes in UTF-8. Most file systems end at 255, and stores add endings, keys and the marks of temporary files."""

_FORBIDDEN = frozenset('/\\<>:"|?*')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any ending."""

_FIX = "Use letters, digits, '-', '_' and dots inside the name, for example 'my_study-2'."


def require_file_name(kind: str, name: str, error: type[CircuitlabError] = BadParameterError) -> str:
    """The name, if a file can be called so on every system without leaving its folder.

    Parameters
    ----------
    kind : str
        What is named, for the message: ``"study id"``.
    name : str
        The name, without ending.
    error : type of CircuitlabError
        What to raise.

    Returns
    -------
    str
        ``name``, unchanged.

    Raises
    ------
    CircuitlabError
        If the name is empty or longer than 120 bytes, begins with a dot, begins or ends with a space, ends with a dot, holds a separator,
        a control or formatting character or one that Windows reserves, or is the name of a Windows device.

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
    """What keeps a name from being a file's; "" if nothing."""
    odd = [char for char in name if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"]
    bad = sorted(_FORBIDDEN.intersection(name))
    size = len(name.encode(errors="replace"))
    problems = {
        "it is empty": not name,
        f"it holds the control character {(odd or [''])[0]!a}": odd,
        f"it holds {' '.join(bad)}, and becomes a file name": bad,
        f"it has {size} bytes, and at most {_LONGEST} fit into a file name": size > _LONGEST,
        "it begins or ends with a dot": name.startswith(".") or name.endswith("."),
        "it begins or ends with a space": name != name.strip(),
        "Windows keeps this name for a device": _DEVICES.fullmatch(name),
    }
    return next((words for words, holds in problems.items() if holds), "")
