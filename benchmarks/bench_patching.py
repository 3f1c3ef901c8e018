"""Speed, memory and agreement of patching and gradient sweeps on SmolLM2-135M, against TransformerLens in the same run.

    .venv/bin/python benchmarks/bench_patching.py --json                 every line (about half an hour on 2 cores)
    .venv/bin/python benchmarks/bench_patching.py --json --only heads_s2
    .venv/bin/python benchmarks/bench_patching.py --save                 also keep the lines that the README's table is made from

Our side: median of three runs. TransformerLens' side: three complete layers, the median extrapolated to all (``peer_layers``).
``efficiency`` is the count of unavoidable operations (benchmarks/flops.py) per second, over the fp32 matrix-product rate measured in
the same process. ``max_abs_diff`` compares mean patched metrics on the peer's layers. Run nothing else beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from sweeps import SWEEPS

from circuitlab.methods import method_classes

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "patching.jsonl"
_ATTRIBUTION = ("atp", "atp_star", "relp", "eap", "eap_ig", "heads_s2_bf16")


def main() -> None:
    """Run the lines that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(SWEEPS), help="a line to run; repeatable")
    parser.add_argument("--json", action="store_true", help="one JSON document per line (otherwise a short text)")
    parser.add_argument("--save", action="store_true", help=f"write the lines to {RESULTS.relative_to(HERE.parent)}")
    given = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for line in _lines(given.only or list(SWEEPS), Path(folder)):
            lines.append(line)
            print(json.dumps(line) if given.json else _text(line), flush=True)
    if given.save:
        _save(lines)


def _lines(names: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    for name in names:
        sweep = SWEEPS[name]
        ours = _measure("ours", name, folder)
        peer = _measure("peer", name, folder) if sweep.peer else None
        line = {
            "sweep": name,
            "method": sweep.method,
            "pairs": sweep.prompts[1],
            "seconds": ours.pop("seconds"),
            "peer": "transformer_lens" if peer else None,
            "peer_seconds": peer["seconds"] if peer else None,
            "ratio": None,
            "efficiency": ours.pop("efficiency", None),
            "gemm_gflops": ours.pop("gemm_gflops"),
            "peak_mb": ours.pop("peak_mb"),
            "peer_peak_mb": peer["peak_mb"] if peer else None,
            "max_abs_diff": _apart(name, folder) if peer else None,
            "peer_layers": len(_load("peer", name, folder)["layers"]) if peer else None,
            **ours,
        }
        if peer:
            line["ratio"] = line["peer_seconds"] / line["seconds"]
        if name in _ATTRIBUTION:
            line["rank_correlation"] = _against_exact(name, folder)
        yield line


def _measure(side: str, name: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "worker.py"), side, name, str(folder / f"{side}.{name}.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} {name} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _load(side: str, name: str, folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / f"{side}.{name}.npz") as found:
        return dict(found)


def _apart(name: str, folder: Path) -> float | None:
    peer = _load("peer", name, folder)
    if not len(peer["layers"]):
        return None
    return float(np.abs(_load("ours", name, folder)["values"][peer["layers"]] - peer["values"]).max())


def _against_exact(name: str, folder: Path) -> float:
    """Spearman correlation of mean head scores with exact patching of the same prompts, in the method's own direction."""
    sweep = SWEEPS[name]
    fields = method_classes()[sweep.method].__dataclass_fields__
    direction = fields["direction"].default if "direction" in fields else "noising"  # eap_ig is noising with gradients on the way
    known = "heads_s2" if direction == "denoising" and (folder / "ours.heads_s2.npz").exists() else direction
    if not (folder / f"ours.{known}.npz").exists():
        _measure("ours", known, folder)
    exact, found = (_load("ours", one, folder)["values"].ravel() for one in (known, name))
    return float(stats.spearmanr(exact, found).statistic)


def _save(lines: list[dict[str, Any]]) -> None:
    """Keep lines; those of other sweeps stay."""
    old = [json.loads(text) for text in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    kept = {line["sweep"]: line for line in [*old, *lines]}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("".join(json.dumps(kept[name]) + "\n" for name in SWEEPS if name in kept))


def _text(line: dict[str, Any]) -> str:
    beside = f"{line['ratio']:6.1f} x TransformerLens" if line["ratio"] else " " * 24
    share = f", {line['efficiency']:.0%} of the GEMM rate" if line["efficiency"] else ""
    return f"{line['sweep']:18s} {line['seconds']:7.2f} s {beside}{share}, {line['peak_mb']:.0f} MB"


if __name__ == "__main__":
    main()
