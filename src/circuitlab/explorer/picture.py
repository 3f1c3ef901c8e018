"""A picture of the map for places where no script runs: SVG and PNG written from the numbers, without a browser."""

from __future__ import annotations

import html
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from circuitlab.explorer.packed import unpack

__all__ = ["map_png", "map_svg"]

_BLUE, _RED, _GREY = np.array([33, 102, 172]), np.array([178, 24, 43]), np.array([247, 247, 247])
"""Helps the answer, hurts it, neither: a pair of colours that colour-blind readers tell apart."""
_SVG = "http://www.w3.org/2000/svg"
_MAPS, _CELL, _GAP, _TOP, _LEFT = 4, 9, 28, 54, 34


def map_svg(payload: Mapping[str, Any]) -> str:
    """Maps of the first scores of the page, layers upwards, each on its own colour scale; heads with q above the level are pale."""
    panels = _panels(payload)
    if not panels:
        return f'<svg xmlns="{_SVG}" width="300" height="30"><text x="4" y="20" font-size="12">No heads were scored.</text></svg>'
    layers, heads = panels[0][1].shape
    width = _LEFT + sum(panel[1].shape[1] * _CELL + _GAP for panel in panels)
    height = _TOP + max(panel[1].shape[0] for panel in panels) * _CELL + 24
    shapes, x = [], float(_LEFT)
    for label, values, sure in panels:
        layers, heads = values.shape
        shapes.append(
            f'<text x="{x:g}" y="{_TOP - 10}" font-size="10" transform="rotate(-8 {x:g} {_TOP - 10})">{html.escape(label)}</text>'
        )
        colours = _colours(values, sure)
        for layer in range(layers):
            y = _TOP + (layers - 1 - layer) * _CELL
            shapes += [
                f'<rect x="{x + head * _CELL:g}" y="{y}" width="8" height="8" fill="#{bytes(colours[layer, head].tolist()).hex()}"/>'
                for head in range(heads)
            ]
        x += heads * _CELL + _GAP
    axis = "".join(
        f'<text x="{_LEFT - 6}" y="{_TOP + (layers - layer) * _CELL - 1}" font-size="8" text-anchor="end">{layer}</text>'
        for layer in range(0, layers, max(1, layers // 10))
    )
    title = html.escape(f"Mean scores of heads, layers upwards: {payload['title']}")
    note = f'<text x="4" y="{height - 6}" font-size="9">blue helps the answer, red hurts it; pale: not distinguishable from 0</text>'
    return (
        f'<svg xmlns="{_SVG}" role="img" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}" '
        f'font-family="sans-serif" fill="#57606a"><title>{title}</title>{axis}{"".join(shapes)}{note}</svg>'
    )


def map_png(payload: Mapping[str, Any], cell: int = 10) -> bytes:
    """The same maps as pixels, side by side, without words; ``cell`` is the size of a head in pixels."""
    panels = _panels(payload)
    rows = max((panel[1].shape[0] for panel in panels), default=1)
    blocks = []
    for _, values, sure in panels:
        block = np.full((rows, values.shape[1] + 1, 3), 255)
        block[rows - values.shape[0] :, :-1] = _colours(values, sure)[::-1]
        blocks.append(block)
    image = np.concatenate(blocks, axis=1) if blocks else np.full((1, 1, 3), 255)
    pixels = np.kron(image, np.ones((cell, cell, 1))).astype(np.uint8)
    height, width, _ = pixels.shape
    lines = b"".join(b"\x00" + pixels[row].tobytes() for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _panels(payload: Mapping[str, Any]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Label, means and which of them are distinguishable from 0, of the first scores of heads."""
    panels: list[tuple[str, np.ndarray, np.ndarray]] = []
    for score in payload["scores"]:
        part = score["parts"].get("heads")
        if part is None or len(panels) == _MAPS:
            continue
        mean = unpack(part["mean"])
        sure = unpack(part["q"]) <= payload["level"] if "q" in part else np.ones(mean.shape, dtype=bool)
        label = f"{score.get('task', 'weights alone')}, {score['method'].replace('_', ' ')}"
        panels.append((label, mean, sure))
    return panels


def _colours(values: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Colours of values from red through grey to blue, (layer, head, 3); what may be 0 keeps a third of its colour."""
    limit = float(np.nanmax(np.abs(values))) or 1.0
    strength = np.nan_to_num(np.abs(values) / limit) ** 0.7 * np.where(sure, 1.0, 1 / 3)
    ends = np.where((values > 0)[..., None], _BLUE, _RED)
    return np.rint(_GREY + strength[..., None] * (ends - _GREY)).astype(int)
