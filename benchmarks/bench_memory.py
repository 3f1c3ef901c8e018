"""What long prompts really take beside what passes think they take, on SmolLM2-135M: `.venv/bin/python benchmarks/bench_memory.py --json`.

Random prompts that differ from their second token on. ``peak_gib`` is the process' high-water mark less what the loaded model held,
``estimate_gib`` what the largest pass was expected to take, ``ratio`` estimate over peak. Every case runs in a process of its own, with
the budget that the package has by default or that CIRCUITLAB_MEMORY_GB gives. Linux only; run nothing beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_CASES = [(name, pairs, length) for name in ("attribution_patching", "eap") for pairs, length in ((2, 512), (8, 256), (8, 512))]


def main() -> None:
    """Run every case, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document per line (otherwise a short text)")
    parser.add_argument("--worker", nargs=3, metavar=("METHOD", "PAIRS", "LENGTH"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measured(given.worker[0], *map(int, given.worker[1:]))))
        return
    for case in _CASES:
        command = [sys.executable, __file__, "--worker", *map(str, case)]
        line = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        print(json.dumps(line) if given.json else " ".join(f"{name}={value}" for name, value in line.items()), flush=True)


def measured(name: str, pairs: int, length: int) -> dict[str, Any]:
    """Peak and estimate of one method on random prompts of one length."""
    import torch
    from worker import _forget_peak, _peak_mb

    from circuitlab.execute.memory import pass_bytes
    from circuitlab.methods import get_method
    from circuitlab.metrics import LogitDiff
    from circuitlab.model import load_model

    torch.set_num_threads(2)
    model = load_model("smollm2-135m")
    method: Any = get_method(name)
    method(model, random_batch(model, 1, 8), LogitDiff())
    batch, before = random_batch(model, pairs, length), resident_mb()
    together = min(method.pairs_per_pass, pairs, max(1, pass_bytes() // pair_bytes(model, name, length)))
    _forget_peak()
    started = time.perf_counter()
    method(model, batch, LogitDiff())
    seconds = time.perf_counter() - started
    peak, estimate = (_peak_mb() - before) / 1024, together * pair_bytes(model, name, length) / 2**30
    found = {"method": name, "pairs": pairs, "length": length, "together": together, "seconds": round(seconds, 2)}
    return found | {"peak_gib": round(peak, 2), "estimate_gib": round(estimate, 2), "ratio": round(estimate / peak, 2)}


def pair_bytes(model: Any, name: str, length: int) -> int:
    """What one pair is expected to take."""
    from circuitlab.execute.memory import PassSizes

    sizes = PassSizes.of(model)
    return sizes.edges(length - 1, length, runs=3) if name == "eap" else sizes.differentiated(("z", "mlp_out"), length - 1, length)


def random_batch(model: Any, pairs: int, length: int) -> Any:
    """Pairs of one length that differ from their second token on."""
    import torch

    from circuitlab.model.batch import ContrastBatch

    generator = torch.Generator().manual_seed(0)
    clean, corrupt = (torch.randint(100, model.spec.d_vocab, (pairs, length), generator=generator) for _ in range(2))
    corrupt[:, 0] = clean[:, 0]
    return ContrastBatch.from_tokens(clean.tolist(), corrupt.tolist(), [[10]] * pairs, [[11]] * pairs)


def resident_mb() -> float:
    """Memory that this process holds now."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
