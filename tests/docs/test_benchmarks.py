"""The README's table of speed is what the benchmark wrote, and the benchmark's parts do what they say."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def lines() -> list[dict]:
    return [json.loads(line) for line in (BENCHMARKS / "results" / "patching.jsonl").read_text().splitlines()]


def test_the_readme_shows_the_stored_lines(lines) -> None:
    table = import_module("table")
    shown = table.PLACE.between((ROOT / "README.md").read_text(encoding="utf-8"))
    assert shown == table.page()
    assert shown.startswith(table.table(lines))
    changed = [{**lines[0], "seconds": lines[0]["seconds"] + 1}, *lines[1:]]
    assert not shown.startswith(table.table(changed))


def test_a_table_is_written_between_its_marks_and_nothing_else_changes(tmp_path) -> None:
    place, page = import_module("marked_table").MarkedTable("speed", "table.py"), tmp_path / "page.md"
    page.write_text(f"before\n{place.start}\nold\n{place.end}\nafter\n", encoding="utf-8")
    place.write("| new |", page)
    assert page.read_text(encoding="utf-8") == f"before\n{place.start}\n| new |\n{place.end}\nafter\n"
    assert place.between(page.read_text(encoding="utf-8")) == "| new |"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(SystemExit, match="no place"):
        place.write("| new |", page)


def test_every_line_has_every_key(lines) -> None:
    keys = {"sweep", "seconds", "peer", "peer_seconds", "ratio", "efficiency", "gemm_gflops", "peak_mb", "peer_peak_mb", "max_abs_diff"}
    assert [line["sweep"] for line in lines] == list(import_module("sweeps").SWEEPS)
    for line in lines:
        assert keys <= set(line)
        assert (line["ratio"] is None) == (line["peer"] is None)
        assert line["max_abs_diff"] is None or line["max_abs_diff"] < (1e-2 if line["sweep"].endswith("bf16") else 1e-3)


def test_unavoidable_operations_are_counted_by_hand() -> None:
    """Two layers, one head, one pair of 3 tokens that differ in the last: everything can be written down."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from circuitlab.model import load_model
    from circuitlab.model.batch import ContrastBatch

    shape = {"hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 1, "num_key_value_heads": 1}
    torch.manual_seed(0)
    model = load_model(LlamaForCausalLM(LlamaConfig(vocab_size=11, head_dim=8, **shape)))
    batch = ContrastBatch.from_tokens([[1, 2, 3]], [[1, 2, 4]], [5], [6])
    keys, query_and_output, mlp = 2 * 2 * 8 * 8, 2 * 2 * 8 * 8, 3 * 2 * 8 * 6
    unedited = 2 * 3 * 2 * (keys + query_and_output + mlp)
    first = mlp + (keys + query_and_output + mlp + 4 * 8 * 3)  # patched in layer 0: its MLP, then all of layer 1
    second = mlp
    found = import_module("flops").cone_flops(model, batch, "heads", by_position=False)
    assert found == pytest.approx(unedited + first + second, rel=0.02)
