"""The page of scaling: its cost model counts what `flops.py` counts, and its tables follow from the stored measurements."""

from __future__ import annotations

import json
from pathlib import Path

import bench_cost
import flops
import pytest
from cost_model import METHODS, SHAPES, Prompts, Shape, operations
from writers import scaling

ROOT = Path(__file__).parents[2]
SMALL = Shape(layers=3, heads=4, kv_heads=2, d_model=32, d_mlp=48, d_head=8)


@pytest.mark.parametrize("prompts", [Prompts(1, 8, 3), Prompts(3, 6, 6), Prompts(2, 5, 1)])
@pytest.mark.parametrize("line", ["every head", "every head at every position"])
def test_shapes_alone_give_the_count_of_a_real_model(prompts, line) -> None:
    model, batch = bench_cost.model_of(SMALL), bench_cost.batch_of(prompts)
    counted = flops.cone_flops(model, batch, "heads", by_position=line.endswith("position"))
    assert operations(SMALL, prompts, line) == pytest.approx(counted, rel=0.05)  # flops.py leaves out attention's mixing in unedited runs
    assert operations(SMALL, Prompts(2 * prompts.pairs, prompts.length, prompts.changed), line) == pytest.approx(2 * counted, rel=0.05)


def test_gradients_cost_a_few_passes_and_sweeps_many() -> None:
    prompts = Prompts(16, 16, 8)
    needed = {line: operations(SHAPES["8B"], prompts, line) for line in METHODS}
    forward = 2 * SHAPES["8B"].weights * 16 * 16
    assert 1 < needed["attribution patching"] / forward < 5
    assert needed["every head"] > 50 * needed["attribution patching"]
    assert SHAPES["8B"].weights == pytest.approx(7.0e9, rel=0.02)
    assert SHAPES["70B"].weights == pytest.approx(68.5e9, rel=0.02)


def test_every_size_and_method_is_measured_and_near_the_prediction() -> None:
    lines = json.loads(bench_cost.RESULTS.read_text())["lines"]
    sizes = [(shape.layers, shape.d_model) for shape in bench_cost.SIZES]
    expected = [(*size, method) for size in sizes for method in METHODS]
    assert [(line["layers"], line["d_model"], line["method"]) for line in lines] == expected
    for line, shape in zip(lines, (shape for shape in bench_cost.SIZES for _ in METHODS), strict=True):
        assert line["tflop"] == pytest.approx(operations(shape, bench_cost.PROMPTS, line["method"]) / 1e12)
        assert line["predicted"] == pytest.approx(line["tflop"] / line["gflops"] * 1e3)


def test_another_price_or_rate_is_another_cost() -> None:
    dear, slow = scaling.Assumptions(cpu_price=1.0), scaling.Assumptions(gpu_share=0.1)
    for line in METHODS:
        base = scaling.costs(line, SHAPES["8B"], scaling.Assumptions())
        assert scaling.costs(line, SHAPES["8B"], dear).cpu_money > base.cpu_money
        assert scaling.costs(line, SHAPES["8B"], slow).gpu_hours > base.gpu_hours
    with pytest.raises(ValueError, match="above 0"):
        scaling.Assumptions(cpu_price=-1.0)


def test_what_streaming_measured_is_shown_where_it_was_measured(tmp_path, monkeypatch) -> None:
    (tmp_path / "cost.json").write_text(bench_cost.RESULTS.read_text())
    monkeypatch.setattr(scaling, "RESULTS", tmp_path)
    assert "Streamed" not in scaling.scaling_page()["scaling.md"]
    lines = [{"model": "random-1b", "seconds": 61.25}, {"model": "random-8b", "peak_gib": 4.5}]
    (tmp_path / "streaming.json").write_text(json.dumps(lines))
    text = scaling.scaling_page()["scaling.md"]
    for row in ("|  | random-1b | random-8b |", "| seconds, measured | 61.2 | - |", "| peak memory in GiB, measured | - | 4.5 |"):
        assert row in text
