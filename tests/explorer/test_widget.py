"""The widget's Python side: what is synced, what is displayed, and what is written."""

from __future__ import annotations

import json

import pytest

from circuitlab.explorer import widget as widget_module
from circuitlab.explorer.example import Example, example_payload
from circuitlab.explorer.widget import Explorer

SMALL = example_payload(Example(layers=2, heads=4, kv_heads=2, pairs=3, shown=1, length=8))


@pytest.fixture
def explorer() -> Explorer:
    return Explorer(SMALL)


def test_payload_state_and_front_end_are_synced(explorer) -> None:
    state = explorer.get_state()
    assert state["payload"] == SMALL and state["state"] == {} and len(state["uid"]) == 12
    assert state["_esm"] == widget_module.front_end()[0] and state["_view_module"] == "anywidget"


def test_the_name_is_that_of_the_data() -> None:
    other = example_payload(Example(layers=2, heads=4, kv_heads=2, tasks=("one", "two"), pairs=3, shown=1, length=8))
    assert Explorer(SMALL).uid == Explorer(SMALL).uid != Explorer(other).uid


def test_a_cell_shows_the_widget_and_keeps_the_page(explorer, monkeypatch) -> None:
    shown: list[tuple[dict, dict]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options)))
    explorer._ipython_display_()
    (live, _), (kept, options) = shown
    assert live["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.model_id
    assert options["raw"] and "application/vnd.jupyter.widget-view+json" not in kept
    assert "<iframe" in kept["text/html"] and f"data-uid=&quot;{explorer.uid}" in kept["text/html"]
    assert kept["text/plain"] == repr(explorer) and kept["image/png"].startswith("iVBOR")


def test_a_page_is_written_whole(explorer, tmp_path) -> None:
    path = explorer.save(tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert text == explorer.page() and text.startswith("<!doctype html>")
    assert json.loads(explorer.to_json()) == json.loads(json.dumps(SMALL))
