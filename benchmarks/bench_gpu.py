"""Sweeps on one card: against TransformerLens on the same card, and as a share of what its matrix products reach there.

    .venv/bin/python benchmarks/bench_gpu.py                                   on cuda
    .venv/bin/python benchmarks/bench_gpu.py --only heads_s2 --pairs 64 --json
    .venv/bin/python benchmarks/bench_gpu.py --device cpu --pairs 2 --only heads_s2   on the processor, to try the script

Everything runs in one process, in float32 without TensorFloat-32. Our side: median of ``--repeats`` runs after one that is not counted.
TransformerLens' side: three complete layers, the median extrapolated to all. ``ratio`` is its time over ours; ``gemm_share`` the
operations that no exact sweep can avoid (flops.py) per second, over the rate of a large float32 product on the same device;
``max_abs_diff`` compares mean patched metrics on the peer's layers. Times are read when the device is done.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flops import cone_flops, gemm_peak, now
from peers import peer_attribution, peer_sweep
from prompts import batch_of
from sweeps import SWEEPS, Sweep

from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model
from circuitlab.model.device import require_device

_LINES = ("heads_s2", "heads_abc", "heads_long", "resid_by_position", "atp", "eap_ig", "heads_s2_bf16")
_ROWS = 8192
"""Rows of the product that the rate is measured with: enough to keep a card busy."""


def main() -> None:
    """Run the lines that are asked for, and say on what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, help="pairs of every line (otherwise as in bench_patching.py)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(SWEEPS), help="a line to run; repeatable")
    parser.add_argument("--no-peer", action="store_true", help="do not run TransformerLens")
    parser.add_argument("--json", action="store_true", help="one JSON document per line (otherwise a short text)")
    given = parser.parse_args()
    device = require_device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"
    print(f"On {name}, torch {torch.__version__}, {given.model}.", flush=True)
    if device.type == "cpu":
        print("No GPU was used: this tries the script, and says nothing about a card.", flush=True)
    for line in _lines(given, device):
        print(json.dumps(line) if given.json else _text(line), flush=True)


def _lines(given: Any, device: torch.device) -> Iterator[dict[str, Any]]:
    model = load_model(given.model, device=str(device))
    for name in given.only or _LINES:
        sweep = SWEEPS[name]
        prompts, pairs = sweep.prompts
        batch = batch_of(model, prompts, given.pairs or pairs)
        ours = _ours(model, batch, sweep, given.repeats)
        line = {"sweep": name, "device": str(device), "pairs": batch.n_pairs} | {key: ours[key] for key in ours if key != "values"}
        if sweep.peer is not None and not given.no_peer:
            line |= _beside(model, batch, sweep, ours)
        yield line


def _ours(model: Any, batch: Any, sweep: Sweep, repeats: int) -> dict[str, Any]:
    method, seconds = get_method(sweep.method, sweep.params), []
    scores = method(model, batch, LogitDiff())  # what is built on first use is not counted
    device = str(model.root.get_input_embeddings().weight.device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    before = gemm_peak(device=device, rows=_ROWS)
    for _ in range(repeats):
        started = now()
        scores = method(model, batch, LogitDiff())
        seconds.append(now() - started)
    rate, middle = max(before, gemm_peak(device=device, rows=_ROWS)), float(np.median(seconds))
    values = scores.values(sweep.part).mean(0)
    if sweep.peer not in {None, "attribution"}:
        values = values + scores.dataset["corrupt"].values.mean()
    if sweep.by_position:  # (mark, layer, ...) -> (layer, mark, ...)
        values = np.moveaxis(values, 0, 1)
    line: dict[str, Any] = {"seconds": middle, "gemm_gflops": rate, "values": values}
    if device != "cpu":
        line["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    if sweep.method == "activation_patching":
        flops = cone_flops(model, batch, sweep.part, by_position=sweep.by_position)
        line |= {"tflop": flops / 1e12, "gemm_share": flops / middle / rate / 1e9}
    return line


def _beside(model: Any, batch: Any, sweep: Sweep, ours: dict[str, Any]) -> dict[str, Any]:
    """The same sweep by TransformerLens, whose functions want tokens where the model is."""
    device = model.root.get_input_embeddings().weight.device
    there = replace(batch, clean=batch.clean.to(device), corrupt=batch.corrupt.to(device))
    peer = peer_attribution(model, there) if sweep.peer == "attribution" else peer_sweep(model, there, str(sweep.peer))
    line = {"peer": "transformer_lens", "peer_seconds": peer["seconds"], "ratio": peer["seconds"] / ours["seconds"]}
    if len(peer["layers"]):
        line["max_abs_diff"] = float(np.abs(ours["values"][peer["layers"]] - peer["values"]).max())
    return line


def _text(line: dict[str, Any]) -> str:
    beside = f"{line['ratio']:7.1f} x TransformerLens" if "ratio" in line else " " * 25
    share = f"{line['gemm_share']:5.0%} of {line['gemm_gflops']:.0f} GFLOP/s" if "gemm_share" in line else ""
    apart = f"  apart {line['max_abs_diff']:.1e}" if "max_abs_diff" in line else ""
    return f"{line['sweep']:18s} {line['pairs']:4d} pairs {line['seconds']:8.3f} s {beside} {share}{apart}"


if __name__ == "__main__":
    main()
