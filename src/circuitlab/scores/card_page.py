"""A head's card as HTML. Jinja2 escapes all text except the template itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["card_page"]

_TINY = 0.001


def card_page(card: object, *, alone: bool = False) -> str:
    """A `HeadCard` as a block of HTML with its own style, for a notebook; with ``alone``, as a page that needs no network."""
    template = _environment().get_template("head_card_page.html" if alone else "head_card.html")
    return template.render(card=card)


def _number(value: float, digits: str = "+.3g") -> str:
    """Three significant digits with a sign, which nothing that is shown as 0 has; "n/a" for NaN."""
    if math.isnan(value):
        return "n/a"
    text = format(value, digits)
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _interval(value: Mapping[str, float], digits: str = "+.3g") -> str:
    mean, low, high = (_number(value[name], digits) for name in ("mean", "low", "high"))
    return mean if "n/a" in {low, high} else f"{mean} [{low}, {high}]"


def _probability(value: float) -> str:
    return "n/a" if math.isnan(value) else "< 0.001" if value < _TINY else f"{value:.2g}"


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("circuitlab.scores"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = {"number": _number, "interval": _interval, "probability": _probability, "token": repr}
    environment.filters |= filters | {"words": lambda name: name.replace("_", " ")}
    return environment
