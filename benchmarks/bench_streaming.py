"""All heads of a model that need not fit in memory: `.venv/bin/python benchmarks/bench_streaming.py --shape 1b`; 8b takes 16 GB of disk.

Writes random bfloat16 weights of that shape, sweeps every head for one pair that differs in its last 8 positions, and removes the weights.
Random weights say how fast and how exact streaming is, and nothing about models.

``gemm_share`` is operations / (processor seconds x GEMM rate). Operations are those of matrix products that the sweep cannot avoid
(`flops.cone_flops`): both unedited runs, and each edited run from its layer and its first changed position on; products that reduced
precision is checked with are not counted. Processor seconds are those of the whole sweep, with reading, conversion of weights, the
unedited runs in float32 and that check; making the weights and loading the model are not in it. The GEMM rate is the median of products
of 1,280 positions with the MLP's input projection (most operations are in products of this shape), in the dtype of the sweep, on the same
threads, before and after the sweep. ``peak_gib`` is the most that the process held during the sweep; ``load_peak_gib`` is the most while
the model was loaded (tested and hashed), which comes first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHAPES: dict[str, dict[str, int]] = {
    "small": {"num_hidden_layers": 6, "hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 4, "intermediate_size": 4096},
    "1b": {"num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192},
    "8b": {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336},
}
_LENGTH, _CHANGED = 16, 8
_GIB = 2**30


def main() -> None:
    """Write the weights, run the sweep in a process of its own, and remove the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1b")
    parser.add_argument("--precision", choices=["full", "bf16_difference"], default="bf16_difference")
    parser.add_argument("--folder", type=Path, help="where the weights are written for a while (default: the folder of temporary files)")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(swept(given.worker, given.precision)))
        return
    folder = Path(tempfile.mkdtemp(prefix="circuitlab-streaming-", dir=given.folder))
    try:
        written = write_random(folder / f"random-{given.shape}", SHAPES[given.shape])
        command = [sys.executable, __file__, "--worker", str(written), "--precision", given.precision]
        print(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
    finally:
        shutil.rmtree(folder)


def write_random(folder: Path, shape: dict[str, int], vocabulary: int = 128256) -> Path:
    """A Llama of this shape with random weights in bfloat16, one file for each layer."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    config = LlamaConfig(**shape, vocab_size=vocabulary, max_position_embeddings=8192, tie_word_embeddings=shape["hidden_size"] < 4096)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0))
    width, inner = config.hidden_size, config.intermediate_size
    shared = width * config.num_key_value_heads // config.num_attention_heads
    maps = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (shared, width), "self_attn.v_proj": (shared, width)}
    maps |= {
        "self_attn.o_proj": (width, width),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    shards: dict[str, dict[str, tuple[int, ...]]] = {
        "ends": {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    }
    if not config.tie_word_embeddings:
        shards["ends"]["lm_head.weight"] = (vocabulary, width)
    for layer in range(config.num_hidden_layers):
        named = {f"{name}.weight": sizes for name, sizes in maps.items()}
        named |= {"input_layernorm.weight": (width,), "post_attention_layernorm.weight": (width,)}
        shards[f"{layer:03d}"] = {f"model.layers.{layer}.{name}": sizes for name, sizes in named.items()}
    index = {}
    for number, (label, tensors) in enumerate(shards.items()):
        file = f"model-{label}.safetensors"
        save_file({name: random_weight(noise, sizes, 7919 * number + i) for i, (name, sizes) in enumerate(tensors.items())}, folder / file)
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def random_weight(noise: Any, shape: tuple[int, ...], start: int) -> Any:
    """A weight cut from noise that is repeated: making 8 billion normal numbers would take longer than the sweep."""
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    count = shape[0] * shape[1]
    shifted = (noise.roll(start) / shape[1] ** 0.5).to(torch.bfloat16)
    flat = shifted.repeat(-(-count // len(noise)))[:count] if count > len(noise) else shifted[:count].clone()
    return flat.view(shape)


def swept(folder: Path, precision: str) -> dict[str, Any]:
    """One sweep over every head, planned and measured."""
    import torch
    from flops import cone_flops
    from worker import _forget_peak, _peak_mb

    import circuitlab as cl
    from circuitlab.execute.plan import plan_of
    from circuitlab.metrics import LogitDiff

    started = time.perf_counter()
    model: Any = cl.load_model(folder, stream=True)
    loading = time.perf_counter() - started
    batch, method = pair_of(model), cl.methods.ActivationPatching(parts="heads", precision=precision)
    before, rate = gemm_rate(model, precision), model.source.reading
    plan, read, waited = plan_of(method, model, batch), rate.bytes, rate.waited
    load_peak = _peak_mb() * 2**20
    _forget_peak()
    started, cpu = time.perf_counter(), time.process_time()
    scores = method(model, batch, LogitDiff())
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = _peak_mb() * 2**20
    gemm = float(np.median([before, gemm_rate(model, precision)]))
    flops = cone_flops(model, batch, "heads", by_position=False)
    spec = model.spec
    return {
        "model": folder.name,
        "heads": spec.n_layers * spec.n_heads,
        "positions": _CHANGED,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "load_seconds": round(loading, 1),
        "load_peak_gib": round(load_peak / _GIB, 2),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "predicted_seconds": round(plan.seconds, 1),
        "tflop": round(flops / 1e12, 2),
        "gemm_gflops": round(gemm, 1),
        "gemm_share": round(flops / cpu / gemm / 1e9 * torch.get_num_threads(), 2),
        "read_gb": round((rate.bytes - read) / 1e9, 2),
        "predicted_read_gb": round(plan.read / 1e9, 2),
        "waited_seconds": round(rate.waited - waited, 2),
        "peak_gib": round(peak / _GIB, 2),
        "predicted_peak_gib": round(plan.peak / _GIB, 2),
        "weights_gib": round(sum(path.stat().st_size for path in folder.glob("*.safetensors")) / _GIB, 2),
        "largest_effect": round(float(np.abs(scores.values("heads")).max()), 4),
        **{name: round(value, 6) for name, value in scores.provenance.measured.items()},
    }


def pair_of(model: Any) -> Any:
    """One pair of random tokens that differs in its last positions."""
    import torch

    from circuitlab.model.batch import ContrastBatch

    generator = torch.Generator().manual_seed(1)
    clean, corrupt = (torch.randint(100, model.spec.d_vocab, (1, _LENGTH), generator=generator) for _ in range(2))
    corrupt[:, : _LENGTH - _CHANGED] = clean[:, : _LENGTH - _CHANGED]
    return ContrastBatch.from_tokens(clean.tolist(), corrupt.tolist(), [[10]], [[11]])


def gemm_rate(model: Any, precision: str, seconds: float = 3.0) -> float:
    """What products of the MLP's shape sustain in the sweep's dtype on this machine in this run, in GFLOP/s (median)."""
    import torch

    from circuitlab.execute.needs import blocks_of

    dtype = torch.float32 if precision == "full" else torch.bfloat16
    width, inner = blocks_of(model)[0].up.weight.shape
    x, w = torch.randn(1280, width).to(dtype), torch.randn(inner, width).to(dtype).T
    rates: list[float] = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or not rates:
        started = time.process_time()
        torch.mm(x, w)
        rates.append(2 * x.numel() * inner / (time.process_time() - started) / 1e9)
    return float(np.median(rates)) * torch.get_num_threads()


if __name__ == "__main__":
    main()
