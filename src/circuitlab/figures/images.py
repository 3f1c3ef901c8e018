"""Figures as .svg and .png, where an image exporter is installed: the ``kaleido`` package with a Chrome or Chromium."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import plotly
import plotly.graph_objects as go
import plotly.io

__all__ = ["exporter", "image_problem", "render_image"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def image_problem() -> str:
    """Why images cannot be made here, in words; empty if nothing is known to be missing."""
    if importlib.util.find_spec("kaleido") is None:
        return "not made: the optional package kaleido is not installed"
    if not any(shutil.which(name) for name in _BROWSERS):
        return "not made: no Chrome or Chromium was found"
    return ""


@contextmanager
def exporter() -> Iterator[None]:
    """One browser for every `render_image` inside the ``with`` block; starting one takes longer than drawing."""
    kaleido = importlib.import_module("kaleido")
    kaleido.start_sync_server(plotlyjs=str(_plotly_js()), mathjax=False, silence_warnings=True)
    try:
        with warnings.catch_warnings():
            # plotly passes its own start options with every figure; the running browser rightly ignores them.
            warnings.filterwarnings("ignore", message=".*kopts.*|.*kaleido.*argument.*")
            yield
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def _plotly_js() -> Path:
    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def render_image(figure: go.Figure, kind: str) -> bytes:
    """One figure as ``"svg"`` or ``"png"`` on a white background.

    Raises
    ------
    Exception
        Whatever the exporter raises; callers record it.
    """
    opaque = go.Figure(figure).update_layout(paper_bgcolor="#ffffff")
    data = plotly.io.to_image(opaque, format=kind, scale=2 if kind == "png" else 1)
    return _without_random_ids(data) if kind == "svg" else bytes(data)


def _without_random_ids(svg: bytes) -> bytes:
    """plotly.js names clip paths after six random hex digits; fixed ones make equal figures equal files."""
    found = re.search(rb'id="defs-([0-9a-f]{6})"', svg)
    return svg.replace(found[1], b"000000") if found else bytes(svg)
