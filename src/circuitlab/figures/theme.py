"""Two plotly templates, light and dark. They are not registered with plotly, so importing this module does not change other figures.

Backgrounds are transparent. The diverging scale runs from orange (hinders) through a neutral middle to blue (helps); readers with any
common form of colour blindness can distinguish them, and numbers on cells are readable at both ends. Figures do not set colour scales: a
heatmap whose range spans zero uses the template's diverging scale, so that a page can change the theme by replacing the template.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, TypeAlias

import plotly.graph_objects as go

from circuitlab.core.errors import UnknownNameError

__all__ = ["HELPS", "HINDERS", "NEUTRAL", "Theme", "faint", "shared_template", "template", "themed"]

Theme: TypeAlias = Literal["light", "dark"]

HELPS = "#3182bd"
"""Colour of positive scores, visible on white and on nearly black."""
HINDERS = "#d9691e"
"""Colour of negative scores."""
NEUTRAL = "#7d8590"
"""Colour of reference lines, chance levels and other context."""

_FONT = "Inter, 'Segoe UI', system-ui, -apple-system, 'Helvetica Neue', Arial, sans-serif"
_DIVERGING = {
    "light": ["#8c3a04", "#d9691e", "#f3b98a", "#f5f5f3", "#9ec9e8", "#3182bd", "#08407e"],
    "dark": ["#d0631a", "#a85218", "#623719", "#20262e", "#1d466b", "#2a6fae", "#3c8fd6"],
}
_SEQUENTIAL = {
    "light": ["#f5f5f3", "#e0ebe1", "#c4dfce", "#a2d0b8", "#7cbfa3"],
    "dark": ["#20262e", "#1f3b40", "#205456", "#226c6a", "#26857d"],
}
_INK = {
    "light": {"text": "#1f2328", "soft": "#59636e", "grid": "#e4e7eb", "line": "#aab2bb", "hover": "#ffffff"},
    "dark": {"text": "#e6edf3", "soft": "#9198a1", "grid": "#2a313a", "line": "#59636e", "hover": "#161b22"},
}


def template(theme: Theme = "light") -> go.layout.Template:
    """A new copy of one of the templates.

    Raises
    ------
    UnknownNameError
        If the theme is neither ``"light"`` nor ``"dark"``.

    Examples
    --------
    >>> template("dark").layout.colorway[0] == template().layout.colorway[0]
    True
    """
    return go.layout.Template(shared_template(theme))


def shared_template(theme: Theme) -> go.layout.Template:
    """The same template every time, for figures, which copy it, and for reading; raises as `template` does."""
    if theme not in _INK:
        raise UnknownNameError("theme", theme, _INK)
    return _built(theme)


@cache
def _built(theme: Theme) -> go.layout.Template:
    ink = _INK[theme]
    axis = {"gridcolor": ink["grid"], "linecolor": ink["line"], "zerolinecolor": ink["line"], "zerolinewidth": 1}
    axis |= {"ticks": "", "automargin": True, "title": {"standoff": 8, "font": {"size": 13, "color": ink["soft"]}}}
    axis |= {"tickfont": {"size": 11, "color": ink["soft"]}}
    bar = {"outlinewidth": 0, "thickness": 12, "ticks": "", "tickfont": {"size": 11, "color": ink["soft"]}}
    layout = {
        "font": {"family": _FONT, "size": 13, "color": ink["text"]},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": [HELPS, HINDERS, "#3f9585", "#8e6bbf", "#b8862b", "#c2538b"],
        "colorscale": {"diverging": _steps(_DIVERGING[theme]), "sequential": _steps(_SEQUENTIAL[theme])},
        "coloraxis": {"colorbar": bar},
        "hoverlabel": {"align": "left", "bgcolor": ink["hover"], "bordercolor": ink["line"], "font": {"color": ink["text"]}},
        "hovermode": "closest",
        "shapedefaults": {"line": {"color": ink["text"]}},
        "modebar": {"orientation": "h", "bgcolor": "rgba(0,0,0,0)", "color": ink["line"], "activecolor": ink["text"]},
        "xaxis": axis,
        "yaxis": axis,
    }
    return go.layout.Template(
        layout=layout,
        data={
            "bar": [{"error_x": {"color": ink["text"], "thickness": 1.2, "width": 3}, "marker": {"line": {"width": 0}}}],
            "heatmap": [{"hoverongaps": False}],
        },
    )


def themed(figure: go.Figure, theme: Theme) -> go.Figure:
    """A copy of the figure in another theme.

    Examples
    --------
    >>> figure = go.Figure(layout={"template": template("light")})
    >>> themed(figure, "dark").layout.template == template("dark"), figure.layout.template == template("light")
    (True, True)
    """
    return go.Figure(figure).update_layout(template=shared_template(theme))


def _steps(colours: list[str]) -> list[list[float | str]]:
    return [[round(i / (len(colours) - 1), 4), colour] for i, colour in enumerate(colours)]


def faint(colour: str) -> str:
    """A colour given as ``#rrggbb``, with an opacity that lets lines and other bands show through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
