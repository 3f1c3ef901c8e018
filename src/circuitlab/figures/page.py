"""Figures as web pages that need no network: the figure as JSON, one copy of plotly.js, and a light or dark theme by media query."""

from __future__ import annotations

import html
import json
from functools import cache
from typing import Any

import plotly
import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from circuitlab.figures.theme import shared_template

__all__ = ["PLOTLY_VERSION", "figure_json", "figure_page", "inline_json", "inline_script", "plot_block", "plot_script", "plotly_js"]

PLOTLY_VERSION: str = plotly.__version__
"""Version of the installed plotly, whose plotly.js the pages use."""

_BUTTONS = 28
"""Height in pixels of the strip above every plot of a page, where its buttons cover nothing."""

_HINT = '<p class="cl-hint" hidden>Wider than the screen: scroll sideways to see all of it.</p>'

_DRAW = """
(function () {
  var hint = function () {
    document.querySelectorAll(".cl-wide").forEach(function (box) {
      box.previousElementSibling.hidden = box.scrollWidth <= box.clientWidth + 1;
    });
  };
  var read = function (id) { return JSON.parse(document.getElementById(id).textContent); };
  var templates = read("cl-templates");
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  var config = {responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]]};
  var draw = function (div) {
    var figure = read(div.dataset.figure);
    figure.layout.template = templates[dark.matches ? "dark" : "light"];
    return Plotly.react(div, figure.data, figure.layout, config).then(function () { div.dataset.drawn = "yes"; hint(); });
  };
  var plots = Array.prototype.slice.call(document.querySelectorAll(".cl-plot"));
  var next = function (i) {
    if (i < plots.length) { draw(plots[i]).then(function () { setTimeout(next, 0, i + 1); }); }
  };
  next(0);
  window.addEventListener("resize", hint);
  hint();
  dark.addEventListener("change", function () { plots.forEach(draw); });
})();
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ background: #ffffff; color: #1f2328; }}
@media (prefers-color-scheme: dark) {{ :root {{ background: #0d1117; color: #e6edf3; }} }}
body {{ margin: 0; padding: 16px; font-family: system-ui, sans-serif; }}
.cl-wide {{ overflow-x: auto; overflow-y: hidden; }}
.cl-hint {{ margin: 0 0 8px; font-size: 14px; opacity: 0.8; }}
</style>
</head>
<body>
{plot}
<noscript><p>This figure needs JavaScript; its numbers are in the .json file of its name and in the .csv files beside it.</p></noscript>
{library}
{script}
</body>
</html>
"""


def plotly_js() -> str:
    """The plotly.js that comes with the installed plotly, as text."""
    return str(get_plotlyjs())


def figure_json(figure: go.Figure) -> str:
    """The figure as JSON text, template included; equal figures give equal text."""
    return json.dumps(json.loads(plotly.io.to_json(figure, engine="json")), ensure_ascii=False, separators=(",", ":")) + "\n"


def figure_page(figure: go.Figure, name: str, *, alone: bool = False) -> str:
    """A page with one figure.

    Parameters
    ----------
    figure : Figure
        A figure from `circuitlab.figures`.
    name : str
        Id of the figure in the page.
    alone : bool
        Whether to put plotly.js into the page (4 MB); if not, the page loads ``plotly.min.js`` from its own folder.
    """
    title = (figure.layout.meta or {}).get("title", name)
    library = inline_script(plotly_js()) if alone else '<script src="plotly.min.js"></script>'
    return _PAGE.format(title=html.escape(title), plot=plot_block(figure, name, titled=True), library=library, script=plot_script())


def plot_block(figure: go.Figure, name: str, *, titled: bool) -> str:
    """The HTML of one figure in a page: the element that it is drawn into, and its JSON.

    Parameters
    ----------
    figure : Figure
        The figure.
    name : str
        Id, unique in the page.
    titled : bool
        Whether to show title and subtitle; if not, their room is removed too, for pages that print them as headings.
    """
    plain = _page_figure(figure, titled=titled)
    size = f"min-width:{plain['layout']['meta']['min_width']}px;max-width:{figure.layout.width}px;height:{plain['layout']['height']}px"
    key = html.escape(name, quote=True)
    return (
        f'{_HINT}\n<div class="cl-wide"><div class="cl-plot" id="plot-{key}" data-figure="data-{key}" style="{size}"></div></div>\n'
        f'<script type="application/json" id="data-{key}">{inline_json(plain)}</script>'
    )


@cache
def plot_script() -> str:
    """The templates and the script that draws every plot of a page; they go after plotly.js and after the plots."""
    templates: dict[str, Any] = {theme: shared_template(theme).to_plotly_json() for theme in ("light", "dark")}
    return f'<script type="application/json" id="cl-templates">{inline_json(templates)}</script>\n<script>{_DRAW}</script>'


def inline_json(value: Any) -> str:
    """The value as JSON that cannot end the script element it is put into."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def inline_script(text: str) -> str:
    """A script element with this text, escaped so that the text cannot end it."""
    return "<script>" + text.replace("</script", "<\\/script") + "</script>"


def _page_figure(figure: go.Figure, *, titled: bool) -> dict[str, Any]:
    """The figure as plain data, without the template and the fixed width, which the page sets."""
    plain: dict[str, Any] = json.loads(plotly.io.to_json(figure, engine="json"))
    layout = plain["layout"]
    layout.pop("template", None)
    layout.pop("width", None)
    if not titled:
        room = layout["meta"]["title_px"] - 4
        layout["annotations"] = [note for note in layout["annotations"] if note.get("name") not in {"title", "subtitle"}]
        layout["margin"]["t"] -= room
        layout["height"] -= room
    layout["margin"]["t"] += _BUTTONS
    layout["height"] += _BUTTONS
    return plain
