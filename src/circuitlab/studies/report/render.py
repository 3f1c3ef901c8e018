"""The templates of the report. Jinja2 escapes all text except the templates themselves and `Markup`."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from circuitlab.figures.page import plot_block
from circuitlab.studies.types import StudyFigure

__all__ = ["NARROW", "anchor", "badge", "code", "interval", "number", "probability", "render", "sentence_list", "soft"]

NARROW = 720
"""Figures up to this width, in pixels, can share a row of the page."""
_TINY = 0.001
_SENTENCE = 40
"""A table cell with more letters than this is formatted as a sentence."""


def render(template: str, context: Mapping[str, Any]) -> Markup:
    """Render a template of this package; a name that the context lacks is an error."""
    return Markup(_environment().get_template(template).render(context))  # noqa: S704 - autoescaped


def anchor(name: str) -> str:
    """A name as an element id and link target."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def number(value: float) -> str:
    """Three significant digits, with a real minus sign; "n/a" for NaN."""
    return "n/a" if math.isnan(value) else f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def interval(value: Mapping[str, float | None]) -> str:
    """``0.91 [0.82, 0.95]``; an unknown interval is left out."""
    values = [value[name] for name in ("mean", "low", "high")]
    mean, low, high = ("n/a" if v is None or math.isnan(v) else f"{v:.2f}".replace("-", "\N{MINUS SIGN}") for v in values)
    return mean if "n/a" in {low, high} else f"{mean} [{low}, {high}]"


def probability(value: float) -> str:
    """``= 0.02`` or ``< 0.001``."""
    return "< 0.001" if value < _TINY else f"= {value:.2g}"


def sentence_list(names: Sequence[object]) -> str:
    """``a, b and c``."""
    words = [str(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def code(text: object) -> Markup:
    """Text in the code font."""
    return Markup("<code>{}</code>").format(text)


def soft(text: object) -> Markup:
    """Text in a muted colour."""
    return Markup('<span class="soft">{}</span>').format(text)


def badge(good: bool, yes: str, no: str) -> Markup:
    """A verdict with a colour and text."""
    return Markup('<span class="badge {}">{}</span>').format("good" if good else "warn", yes if good else no)


def _plot(drawing: StudyFigure) -> Markup:
    return Markup(plot_block(drawing.figure, anchor(drawing.name), titled=False))  # noqa: S704 - escaped where it is made


def _narrow(drawing: StudyFigure) -> bool:
    return bool(drawing.figure.layout.width <= NARROW)


def _cell_class(cell: object) -> str:
    text = re.sub(r"<[^>]*>", "", str(cell))
    if len(text) > _SENTENCE:
        return "wide"
    return "number" if re.match(r"[\d\N{MINUS SIGN}+<&]", text) else ""


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("circuitlab.studies.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"anchor": anchor, "badge": badge, "cell_class": _cell_class, "narrow": _narrow, "number": number}
    environment.filters |= {"plot": _plot, "sentence_list": sentence_list, "words": lambda name: name.replace("_", " ")}
    return environment
