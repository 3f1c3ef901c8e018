"""Cards of heads as HTML. Jinja2 escapes all text except the templates themselves."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from circuitlab.core.files import replace_file

__all__ = ["card_block", "cards_page", "save_cards"]

_TINY = 0.001


def card_block(card: object) -> str:
    """A `HeadCard` as a block of HTML with its own style, for a notebook."""
    return _environment().get_template("head_card.html").render(card=card)


def cards_page(cards: Sequence[object]) -> str:
    """One or several `HeadCard` as one page that needs no network; several are listed at its top."""
    return _environment().get_template("head_card_page.html").render(cards=cards)


def save_cards(cards: Sequence[object], path: str | Path) -> Path:
    """Write cards as one page, and return its path.

    Raises
    ------
    StoreError
        If the file cannot be written.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> cards = [cl.head_card(planted.model, head, planted.batch(4), roles=[]) for head in ("a1.h1", "a1.h2")]
    >>> save_cards(cards, "cards.html")  # doctest: +SKIP
    """
    text = cards_page(cards)
    replace_file(Path(path), lambda target: target.write_text(text, encoding="utf-8"))
    return Path(path)


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
