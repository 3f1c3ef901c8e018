"""Does the cost model hold? Four methods on random-weight Llamas of four sizes, measured and predicted, on one thread.

    .venv/bin/python benchmarks/bench_cost.py               print one line for each size and method (about four minutes)
    .venv/bin/python benchmarks/bench_cost.py --save        also keep them in benchmarks/results/cost.json; docs/scaling.md shows them

Seconds are processor seconds of this process, so that other processes disturb them less. Predicted seconds are operations
(``cost_model.operations``) over the rate of a matrix product of the model's own shape, which is measured before and after. Random weights
say how fast methods are, and nothing about models.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cost_model import METHODS, Prompts, Shape, operations
from transformers import LlamaConfig, LlamaForCausalLM

from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch

__all__ = ["PROMPTS", "SIZES", "batch_of", "model_of"]

RESULTS = Path(__file__).parent / "results" / "cost.json"
PROMPTS = Prompts(pairs=2, length=16, changed=8)
_WIDTHS = ((8, 512), (12, 768), (16, 1024), (16, 1280))
SIZES = tuple(Shape(layers, width // 64, width // 256, width, 11 * width // 4, 64) for layers, width in _WIDTHS)
_GEMM_SECONDS = 1.0


def main() -> None:
    """Measure every size and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", action="store_true", help="keep the lines")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for shape in SIZES:
        for line in measured(shape):
            lines.append(line)
            print(json.dumps(line), flush=True)
    if given.save:
        about = {"processor": platform.machine(), "torch": torch.__version__, "threads": 1, "dtype": "float32"}
        RESULTS.write_text(json.dumps({**about, "lines": lines}, indent=1) + "\n")


def measured(shape: Shape) -> list[dict[str, Any]]:
    """One line for each method on a model of this shape."""
    model, batch = model_of(shape), batch_of(PROMPTS)
    model.decoder.geometry(PROMPTS.length)
    lines = []
    get_method("attribution_patching", {})(model, batch, LogitDiff())  # what is done once for a model is not measured
    for line, (name, params) in METHODS.items():
        method = get_method(name, params)
        before, started = gemm_rate(shape), time.process_time()
        method(model, batch, LogitDiff())
        seconds = time.process_time() - started
        rate, needed = float(np.median([before, gemm_rate(shape)])), operations(shape, PROMPTS, line)
        measure = {"tflop": needed / 1e12, "gflops": rate, "predicted": needed / rate / 1e9, "seconds": seconds}
        about = {"d_model": shape.d_model, "layers": shape.layers, "heads": shape.heads, "weights": shape.weights}
        lines.append({**about, "method": line, **measure})
    return lines


def gemm_rate(shape: Shape) -> float:
    """Giga-operations a processor second of a matrix product of the MLP's shape, median."""
    a, b = torch.randn(512, shape.d_model), torch.randn(shape.d_mlp, shape.d_model)
    rates, stop = [], time.perf_counter() + _GEMM_SECONDS
    while time.perf_counter() < stop or len(rates) < 3:
        started = time.process_time()
        for _ in range(5):
            torch.nn.functional.linear(a, b)
        rates.append(5 * 2 * a.shape[0] * b.numel() / (time.process_time() - started) / 1e9)
    return float(np.median(rates))


def model_of(shape: Shape) -> Any:
    """A Llama of this shape with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.d_head,
    )
    return load_model(LlamaForCausalLM(config))


def batch_of(prompts: Prompts) -> ContrastBatch:
    """Random prompts that differ in one token."""
    clean = torch.randint(2, 512, (prompts.pairs, prompts.length), generator=torch.Generator().manual_seed(1))
    corrupt = clean.clone()
    place = prompts.length - prompts.changed
    corrupt[:, place] = (clean[:, place] + 5) % 510 + 2
    return ContrastBatch.from_tokens(clean.tolist(), corrupt.tolist(), [5] * prompts.pairs, [6] * prompts.pairs)


if __name__ == "__main__":
    main()
