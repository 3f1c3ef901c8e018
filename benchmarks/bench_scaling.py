"""How the cost of patching every head grows with pairs, prompt length, layers and heads.

    .venv/bin/python benchmarks/bench_scaling.py --json            one JSON line per axis (about two minutes on 2 cores)
    .venv/bin/python benchmarks/bench_scaling.py --save            also keep them in benchmarks/results/scaling.jsonl

Random-weight Llama models with the widths of SmolLM2-135M; one axis is varied at a time, from a third of the base case upwards.
``exponent`` is the slope of log seconds on log size: 1 is proportional. Pairs differ in the fourth token from the end, or, for
``length_early``, in the second token, where everything has to be computed again. Run nothing else beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from circuitlab.methods.activation_patching import ActivationPatching
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.batch import ContrastBatch

RESULTS = Path(__file__).parent / "results" / "scaling.jsonl"
_BASE = {"pairs": 8, "length": 16, "layers": 12, "heads": 9, "early": 0}
AXES: dict[str, tuple[str, tuple[int, ...], dict[str, int]]] = {
    "pairs": ("pairs", (2, 4, 8, 16), {}),
    "length": ("length", (16, 32, 64, 128), {}),
    "length_early": ("length", (8, 16, 32, 64), {"early": 1}),
    "layers": ("layers", (6, 12, 24, 36), {}),
    "heads": ("heads", (3, 6, 9, 18), {}),
}
"""Axis -> (what is varied, its values, what else differs from the base case)."""


def main() -> None:
    """Measure every axis."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document per line (otherwise a short text)")
    parser.add_argument("--save", action="store_true", help="keep the lines")
    parser.add_argument("--only", action="append", choices=list(AXES), help="an axis; repeatable")
    given = parser.parse_args()
    torch.set_num_threads(2)
    lines = []
    for line in measured(given.only or list(AXES)):
        lines.append(line)
        print(json.dumps(line) if given.json else f"{line['axis']:14s} ~ size^{line['exponent']:.2f}  {line['seconds']}", flush=True)
    if given.save:
        RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))


def measured(axes: list[str]) -> Iterator[dict[str, Any]]:
    """One line per axis."""
    for axis in axes:
        name, sizes, other = AXES[axis]
        seconds = [_seconds(_BASE | other | {name: size}) for size in sizes]
        slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        yield {"axis": axis, "varied": name, "sizes": list(sizes), "seconds": [round(one, 3) for one in seconds], "exponent": slope}


def _seconds(case: dict[str, int]) -> float:
    """Median of three sweeps over every head."""
    width, heads = 576, case["heads"]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=1536,
        num_hidden_layers=case["layers"],
        num_attention_heads=heads,
        num_key_value_heads=heads // 3,
        head_dim=64,
    )
    model = load_model(LlamaForCausalLM(config))
    batch = _batch(case)
    found = []
    for _ in range(3):
        started = time.perf_counter()
        ActivationPatching(parts=("heads",))(model, batch, LogitDiff())
        found.append(time.perf_counter() - started)
    return float(np.median(found))


def _batch(case: dict[str, int]) -> ContrastBatch:
    generator = torch.Generator().manual_seed(1)
    clean = torch.randint(2, 512, (case["pairs"], case["length"]), generator=generator)
    corrupt = clean.clone()
    place = 1 if case["early"] else -4
    corrupt[:, place] = (clean[:, place] + 5) % 510 + 2
    return ContrastBatch.from_tokens(clean.tolist(), corrupt.tolist(), [5] * case["pairs"], [6] * case["pairs"])


if __name__ == "__main__":
    main()
