"""One measurement in a process of its own, so that its memory is its own: prints one JSON line, stores values for comparison."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flops import cone_flops, gemm_peak
from peers import peer_attribution, peer_sweep
from prompts import batch_of
from sweeps import EXACT, SWEEPS, Sweep

from circuitlab.methods import get_method
from circuitlab.metrics import LogitDiff
from circuitlab.model import load_model

_REPEATS = 3


def main(side: str, name: str, values: str) -> None:
    """Run one side of one sweep."""
    torch.set_num_threads(2)
    sweep = SWEEPS[name] if name in SWEEPS else EXACT[name]
    model = load_model("smollm2-135m")
    batch = batch_of(model, *sweep.prompts)
    model.decoder.geometry(batch.clean.shape[1])
    _forget_peak()
    found = _ours(model, batch, sweep) if side == "ours" else _peer(model, batch, sweep)
    np.savez(values, values=found.pop("values"), layers=found.pop("layers"))
    print(json.dumps({"peak_mb": _peak_mb(), **found}))


def _ours(model: Any, batch: Any, sweep: Sweep) -> dict[str, Any]:
    method = get_method(sweep.method, sweep.params)
    seconds = []
    before = gemm_peak()
    for _ in range(1 if sweep in EXACT.values() and sweep.peer is None else _REPEATS):
        started = time.perf_counter()
        scores = method(model, batch, LogitDiff())
        seconds.append(time.perf_counter() - started)
    peak = max(before, gemm_peak())
    middle = float(np.median(seconds))
    part = sweep.part
    values = scores.values(part).mean(0)
    if sweep.peer not in {None, "attribution"}:
        values = values + scores.dataset["corrupt"].values.mean()
    if sweep.by_position:  # (mark, layer, ...) -> (layer, mark, ...)
        values = np.moveaxis(values, 0, 1)
    found: dict[str, Any] = {"seconds": middle, "gemm_gflops": peak, "values": values, "layers": [], **scores.provenance.measured}
    if sweep.method == "activation_patching":
        flops = cone_flops(model, batch, part, by_position=sweep.by_position)
        found |= {"tflop": flops / 1e12, "efficiency": flops / middle / peak / 1e9}
    return found


def _peer(model: Any, batch: Any, sweep: Sweep) -> dict[str, Any]:
    return peer_attribution(model, batch) if sweep.peer == "attribution" else peer_sweep(model, batch, str(sweep.peer))


def _forget_peak() -> None:
    """Start the high-water mark of this process's memory anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
