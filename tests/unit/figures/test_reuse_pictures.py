"""Pictures of the reuse study as data."""

from __future__ import annotations

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError
from circuitlab.figures.repair import repair_bars
from circuitlab.figures.stages import stage_heatmaps

EVIL = "<script>alert(1)</script>"


def stage(kept, receivers=("logits",), seed: int = 0) -> dict:
    effects = np.random.default_rng(seed).normal(size=(3, 4))
    edges = [{"edge": f"{kept[0]}->{receivers[0]}", "mean": 1.0, "low": 0.5, "high": 1.5}]
    return {"receivers": list(receivers), "kept": list(kept), "effects": effects.tolist(), "edges": edges}


def test_stages_stand_side_by_side_with_shared_heads_outlined() -> None:
    first = [stage(["a2.h0", "a2.h1"]), stage(["a1.h2"], ["a2.h0<q>", "a2.h1<q>"], 1)]
    second = [stage(["a2.h1", "a2.h3"], seed=2)]
    figure = stage_heatmaps({"a": first, "b": second}, titles={"a": EVIL})
    assert len(figure.data) == 3
    effects = np.array(first[0]["effects"])
    np.testing.assert_allclose(np.array(figure.data[0].z, dtype=float), effects / np.abs(effects).max(), rtol=1e-4)
    shared = [shape for shape in figure.layout.shapes if shape.name == "shared"]
    kept = [shape for shape in figure.layout.shapes if shape.name == "kept"]
    assert [(s.x0 + 0.5, s.y0 + 0.5) for s in shared] == [(1, 2), (1, 2)] and len(kept) == 3
    assert {shape.xref for shape in shared} == {"x", "x2"} and shared[0].line.width > kept[0].line.width
    titles = [note.text for note in figure.layout.annotations]
    assert any("queries of 2 heads" in text for text in titles) and any("no stage 2" in text for text in titles)
    assert not any("<script" in text for text in titles)
    assert "a2.h0-&gt;logits +1" in figure.data[0].hovertext[2][0]
    with pytest.raises(BadParameterError, match="nothing to draw"):
        stage_heatmaps({"a": []})


def row(name: str, mean: float, heads=("a1.h1",), random=None) -> dict:
    return {
        "name": name,
        "heads": list(heads),
        "accuracy": {"mean": mean, "low": mean - 0.1, "high": mean + 0.05},
        "new_mistakes": 1,
        "repaired": 2,
        "p_change": 0.5,
        "errors": {"another option": 3},
        "random": random,
    }


def test_repair_bars_show_controls_chance_and_what_is_published() -> None:
    control = {"n": 20, "mean": 0.42, "low": 0.4, "high": 0.5, "p": 0.04}
    none = {"name": "labelled inhibition", "heads": [], "accuracy": None, "reason": "no head qualifies"}
    figure = repair_bars([row("no edit", 0.4, ()), row(EVIL, 0.6, random=control), none], chance=1 / 3, published={"no edit": 0.496})
    bars, random, published = figure.data
    assert list(bars.y) == [0.4, 0.6] and list(random.y) == [0.42] and list(published.y) == [0.496]
    assert list(bars.error_y.array) == pytest.approx([0.05, 0.05]) and list(random.error_y.arrayminus) == pytest.approx([0.02])
    assert bars.x[1].endswith("(1)") and random.x[0] == bars.x[1] and published.x[0] == bars.x[0]
    assert "<script" not in bars.x[1] + bars.hovertext[1]
    assert sorted(shape.y0 for shape in figure.layout.shapes) == pytest.approx([1 / 3, 0.4])
    assert "no head qualifies: labelled inhibition" in figure.layout.meta["subtitle"]
    assert "repaired 2, new mistakes 1" in bars.hovertext[0]
    with pytest.raises(BadParameterError, match="No condition"):
        repair_bars([none], chance=0.5)
