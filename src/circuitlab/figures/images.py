"""Figures as .svg and .png files, if an image exporter is installed: the ``kaleido`` package and Chrome or Chromium."""

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
    """Why images cannot be made here; empty if nothing is known to be missing."""
    if importlib.util.find_spec("kaleido") is None:
        return "not made: the optional package kaleido is not installed"
    if not any(shutil.which(name) for name in _BROWSERS):
        return "not made: no Chrome or Chromium was found"
    return ""


@contextmanager
def exporter() -> Iterator[None]:
    """Use one browser for every `render_image` inside the ``with`` block, since starting a browser takes longer than drawing."""
    kaleido = importlib.import_module("kaleido")
    kaleido.start_sync_server(plotlyjs=str(_plotly_js()), mathjax=False, silence_warnings=True)
    try:
        with warnings.catch_warnings():
            # plotly passes start options with every figure, which a running browser ignores with a warning.
            warnings.filterwarnings("ignore", message=".*kopts.*|.*kaleido.*argument.*")
            yield
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def _plotly_js() -> Path:
    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def render_image(figure: go.Figure, kind: str) -> bytes:
    """A figure as ``"svg"`` or ``"png"`` on a white background.

    Raises
    ------
    Exception
        Any error of the exporter; callers record it.
    """
    opaque = go.Figure(figure).update_layout(paper_bgcolor="#ffffff")
    data = plotly.io.to_image(opaque, format=kind, scale=2 if kind == "png" else 1)
    return _without_random_ids(data) if kind == "svg" else bytes(data)


def _without_random_ids(svg: bytes) -> bytes:
    """The file with the six random hex digits replaced that plotly.js puts into names, so that equal figures give equal files."""
    match = re.search(rb'id="defs-([0-9a-f]{6})"', svg)
    return svg.replace(match[1], b"000000") if match else bytes(svg)
