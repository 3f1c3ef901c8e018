"""What runs really take beside what they say before they start: `.venv/bin/python benchmarks/bench_memory.py --json`.

Random prompts that differ from their second token on. First passes of long prompts on SmolLM2-135M: ``peak_gib`` is the process'
high-water mark less what the loaded model held, ``estimate_gib`` what the largest pass was expected to take, ``ratio`` estimate over peak.
Then plans (``--plans``: these alone) of three methods on three models, in memory and streamed: ``planned_gib`` is what
`circuitlab.execute.plan.plan_of` says that the whole process will hold at most, ``peak_gib`` what it held, ``ratio`` planned over peak.
Last, patching on SmolLM2-135M with ``memory`` set to 2 GiB for the whole process. Every case runs in a process of its own, with the
budget that the package has by default or that CIRCUITLAB_MEMORY_GB gives. Linux only; run nothing beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_CASES = [(name, pairs, length) for name in ("attribution_patching", "eap") for pairs, length in ((2, 512), (8, 256), (8, 512))]
_MODELS = ("smollm2-135m", "random-llama", "random-qwen3")
_METHODS = ("activation_patching", "attribution_patching", "path_patching")
_PLANS = [(model, name, where) for model in _MODELS for name in _METHODS for where in ("in_memory", "streamed")]
_PLANNED_PAIRS, _PLANNED_LENGTH, _PLANNED_WINDOW = 8, 128, 4


def main() -> None:
    """Run every case, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document per line (otherwise a short text)")
    parser.add_argument("--plans", action="store_true", help="plans alone")
    parser.add_argument("--worker", nargs=3, metavar=("METHOD", "PAIRS", "LENGTH"), help=argparse.SUPPRESS)
    parser.add_argument("--plan-worker", nargs=4, metavar=("MODEL", "METHOD", "WHERE", "MEMORY"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measured(given.worker[0], *map(int, given.worker[1:]))))
        return
    if given.plan_worker:
        print(json.dumps(planned(*given.plan_worker)))
        return
    cases = [] if given.plans else [("--worker", *case) for case in _CASES]
    cases += [("--plan-worker", *case, "") for case in _PLANS]
    cases += [("--plan-worker", "smollm2-135m", "activation_patching", "in_memory", "2GiB")]
    for case in cases:
        command = [sys.executable, __file__, *map(str, case)]
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


def planned(which: str, name: str, where: str, memory: str) -> dict[str, Any]:
    """Planned and measured peak of the process for one method."""
    import torch
    from worker import _forget_peak, _peak_mb

    from circuitlab.execute.plan import plan_of, within_memory
    from circuitlab.methods import get_method
    from circuitlab.metrics import LogitDiff

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="circuitlab-memory-") as folder:
        model: Any = load(which, Path(folder), streamed=where == "streamed")
        method: Any = get_method(name)
        batch = random_batch(model, _PLANNED_PAIRS, _PLANNED_LENGTH, first=_PLANNED_LENGTH - _PLANNED_WINDOW)
        with within_memory(memory or None, model, method):
            plan = plan_of(method, model, batch)
            _forget_peak()
            started = time.perf_counter()
            method(model, batch, LogitDiff())
            seconds = time.perf_counter() - started
    peak, said = _peak_mb() / 1024, plan.peak / 2**30
    about = {"model": which, "method": name, "where": where, "memory": memory, "passes": plan.passes, "readings": plan.readings}
    times = {"seconds": round(seconds, 1), "planned_seconds": round(plan.seconds, 1)}
    return about | times | {"peak_gib": round(peak, 3), "planned_gib": round(said, 3), "ratio": round(said / peak, 2)}


def load(which: str, folder: Path, *, streamed: bool) -> Any:
    """SmolLM2-135M, or a model with random weights from a folder that is written for it."""
    import torch
    import transformers

    from circuitlab.model import load_model

    if which == "smollm2-135m":
        return load_model(which, stream=streamed)
    shape = {"num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 4, "hidden_size": 1024, "intermediate_size": 3072}
    shape |= {"vocab_size": 8192, "max_position_embeddings": 4096}
    llama = which == "random-llama"
    config = transformers.LlamaConfig(**shape) if llama else transformers.Qwen3Config(**shape | {"num_hidden_layers": 8}, head_dim=128)
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    hf.save_pretrained(folder / which, max_shard_size="100MB")
    del hf
    return load_model(folder / which, stream=streamed)


def pair_bytes(model: Any, name: str, length: int) -> int:
    """What one pair is expected to take."""
    from circuitlab.execute.memory import PassSizes

    sizes = PassSizes.of(model)
    return sizes.edges(length - 1, length, runs=3) if name == "eap" else sizes.differentiated(("z", "mlp_out"), length - 1, length)


def random_batch(model: Any, pairs: int, length: int, first: int = 1) -> Any:
    """Pairs of one length that differ from position ``first`` on."""
    import torch

    from circuitlab.model.batch import ContrastBatch

    generator = torch.Generator().manual_seed(0)
    clean, corrupt = (torch.randint(100, model.spec.d_vocab, (pairs, length), generator=generator) for _ in range(2))
    corrupt[:, :first] = clean[:, :first]
    return ContrastBatch.from_tokens(clean.tolist(), corrupt.tolist(), [[10]] * pairs, [[11]] * pairs)


def resident_mb() -> float:
    """Memory that this process holds now."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
