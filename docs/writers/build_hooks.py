"""What `mkdocs build` does besides: formulas become MathML, so that no script is loaded, and llms.txt's pages lie beside the HTML."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

__all__ = ["on_page_content", "on_post_build"]

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', flags=re.DOTALL)


def on_page_content(text: str, **_: Any) -> str:
    """Every formula of a page as MathML."""
    return _FORMULA.sub(_as_mathml, text)


def on_post_build(config: Any, **_: Any) -> None:
    """Copy the Markdown pages into the site: `llms.txt` names them."""
    source, site = Path(config["docs_dir"]), Path(config["site_dir"])
    for path in source.rglob("*.md"):
        target = site / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _as_mathml(match: re.Match[str]) -> str:
    tag, inline, block = match.groups()
    formula = convert(html.unescape(inline if block is None else block), display="inline" if block is None else "block")
    return formula if tag == "span" else f'<div class="formula">{formula}</div>'
