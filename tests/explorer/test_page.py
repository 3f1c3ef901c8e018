"""The page is one file that asks for nothing, and what tokenizers and task files say stays text."""

from __future__ import annotations

import base64
import json
import struct
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError
from circuitlab.explorer import page as page_module
from circuitlab.explorer.example import HOSTILE, Example, example_payload
from circuitlab.explorer.page import explorer_page, notebook_frame, payload_script
from circuitlab.explorer.picture import map_png, map_svg

SMALL = Example(layers=3, heads=4, kv_heads=2, pairs=3, shown=1, length=8)
BAD = Example(layers=3, heads=4, kv_heads=2, pairs=3, shown=1, length=8, hostile=True)


class Parts(HTMLParser):
    """Elements with attributes, and the text of scripts by id or type."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.scripts: list[tuple[dict, str]] = []
        self._script: dict | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        self._script = dict(attrs) if tag == "script" else self._script

    def handle_endtag(self, tag) -> None:
        self._script = None if tag == "script" else self._script

    def handle_data(self, data) -> None:
        if self._script is not None:
            self.scripts.append((self._script, data))


@pytest.fixture(autouse=True)
def _front_end(monkeypatch) -> None:
    """A front end of one line where the built one is not what is tested."""
    monkeypatch.setattr(
        page_module, "front_end", lambda: ("export function mount(el) { el.textContent = '</script>'; }", "p { color: red }")
    )


@pytest.mark.parametrize("example", [SMALL, BAD], ids=["plain", "hostile"])
def test_the_page_holds_the_payload_and_two_scripts(example) -> None:
    payload = example_payload(example)
    parts = Parts(explorer_page(payload))
    assert [attrs.get("type") for attrs, _ in parts.scripts] == ["application/json", "module"]
    assert json.loads(parts.scripts[0][1]) == json.loads(json.dumps(payload))
    kinds = {tag for tag, _ in parts.elements}
    assert not kinds & {"img", "iframe", "object", "embed", "link", "base", "form"}
    assert not [attrs for _, attrs in parts.elements if {"src", "href", "onload", "onerror"} & set(attrs)]


def test_the_payload_cannot_end_its_script() -> None:
    text = payload_script(example_payload(BAD))
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text)["prompts"][0]["pairs"][0]["clean"][1] in HOSTILE


def test_nothing_may_be_fetched() -> None:
    parts = Parts(explorer_page(example_payload(SMALL)))
    (policy,) = [
        attrs["content"] for tag, attrs in parts.elements if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["default-src"] == "'none'" and "connect-src" not in directives
    assert not [source for value in directives.values() for source in value.split() if "*" in source or "http" in source]


def test_the_front_end_arrives_unchanged() -> None:
    script = Parts(explorer_page(example_payload(SMALL))).scripts[1][1]
    encoded = script.split('"data:text/javascript;base64," + "')[1].split('"')[0]
    assert base64.b64decode(encoded).decode() == page_module.front_end()[0]


def test_a_missing_front_end_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(page_module, "files", lambda _package: tmp_path)
    with pytest.raises(BadParameterError, match=r"there is no .*explorer\.js"):
        explorer_page(example_payload(SMALL))


@pytest.mark.parametrize("example", [SMALL, BAD], ids=["plain", "hostile"])
def test_the_frame_of_a_notebook_holds_the_whole_page(example) -> None:
    payload = example_payload(example)
    parts = Parts(notebook_frame(payload, "0123"))
    (picture, frame) = [attrs for tag, attrs in parts.elements if tag in {"img", "iframe"}]
    assert len(parts.elements) == 2
    assert frame["srcdoc"] == explorer_page(payload, uid="0123")
    assert ET.fromstring(base64.b64decode(picture["src"].split(",", 1)[1])).tag.endswith("svg")


@pytest.mark.parametrize("example", [SMALL, BAD], ids=["plain", "hostile"])
def test_the_picture_is_well_formed_and_has_a_cell_for_every_head(example) -> None:
    payload = example_payload(example)
    root = ET.fromstring(map_svg(payload))
    cells = [one for one in root.iter() if one.tag.endswith("rect")]
    assert len(cells) == 4 * 3 * 4  # four runs of three layers by four heads
    assert not [one for one in root.iter() if one.tag.endswith(("script", "image", "foreignObject"))]
    assert payload["title"] in root[0].text


def test_strong_heads_are_blue_or_red_and_unsure_ones_pale() -> None:
    from circuitlab.explorer.picture import _colours

    colours = _colours(np.array([[1.0, -1.0, 0.0, 1.0]]), np.array([[True, True, True, False]]))[0]
    assert colours[0].tolist() == [33, 102, 172] and colours[1].tolist() == [178, 24, 43] and colours[2].tolist() == [247, 247, 247]
    assert colours[3].min() > 170


def test_pixels_are_a_png() -> None:
    payload = example_payload(SMALL)
    data = map_png(payload, cell=2)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (4 * 5 * 2, 3 * 2)
    body = zlib.decompress(data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8])
    assert len(body) == height * (1 + 3 * width)


def test_a_page_without_heads_says_so() -> None:
    payload = example_payload(SMALL)
    assert "No heads were scored" in map_svg(payload | {"scores": []})
    assert map_png(payload | {"scores": []})[:4] == b"\x89PNG"
