"""The words on a figure: heading and axes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Wording"]


@dataclass(frozen=True)
class Wording:
    """Heading and axis titles of a figure, as plain text.

    Parameters
    ----------
    title, subtitle : str
        Heading.
    x, y : str
        Titles of the horizontal and the vertical axis, with units.
    units : str
        What colour means, beside the colour bar.

    Examples
    --------
    >>> Wording("Accuracy without the heads", x="heads ablated", y="accuracy").y
    'accuracy'
    """

    title: str
    subtitle: str = ""
    x: str = ""
    y: str = ""
    units: str = ""
