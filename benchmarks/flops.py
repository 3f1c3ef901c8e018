"""Floating-point operations that a sweep cannot avoid: from each patched layer up, from the first changed position on."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from circuitlab.execute.needs import blocks_of
from circuitlab.model.batch import ContrastBatch
from circuitlab.scores.parts import PARTS

__all__ = ["cone_flops", "gemm_peak", "now"]


def cone_flops(model: Any, batch: ContrastBatch, part: str, *, by_position: bool) -> float:
    """Matrix products of one sweep over every node of a part, in operations.

    Counted: the two unedited runs, and per edited run layers above the patched one on the window; the patched layer from the patched
    point on (attention's projections are not counted there); in the last layer, queries, output projection and MLP at the answer
    position only.
    """
    spec, block = model.spec, blocks_of(model)[0]
    width, inner = spec.d_model, spec.n_heads * spec.d_head
    keys = 2 * 2 * width * spec.n_kv_heads * spec.d_head
    mlp = (3 if block.gate else 2) * 2 * width * block.up.weight.shape[1]
    rest = 2 * 2 * width * inner + mlp
    axes = PARTS[part].axes
    nodes = {"head": spec.n_heads, "kv_head": spec.n_kv_heads}.get(axes[-1], 1)
    total = 2.0 * spec.n_layers * (keys + rest) * float((batch.end + 1).sum())
    for first, end in zip(batch.first_difference().tolist(), batch.end.tolist(), strict=True):
        starts = range(first, end + 1) if by_position else [first]
        for start in starts:
            layers = range(spec.n_layers)
            total += nodes * sum(_run(spec.n_layers, layer, end + 1 - start, (start, inner), (keys, rest, mlp)) for layer in layers)
    return total


def _run(layers: int, patched: int, window: int, attention: tuple[int, int], per_token: tuple[int, int, int]) -> float:
    (start, inner), (keys, rest, mlp) = attention, per_token
    mixing = 4 * inner * sum(start + i + 1 for i in range(window))
    above = max(0, layers - 1 - patched - 1) * (window * (keys + rest) + mixing)
    last = window * keys + rest + 4 * inner * (start + window) if patched < layers - 1 else 0
    return above + last + (window if patched < layers - 1 else 1) * mlp


def now() -> float:
    """The time, in seconds, when everything that a GPU was asked for is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def gemm_peak(seconds: float = 2.0, *, device: str = "cpu", rows: int = 1024) -> float:
    """What an fp32 matrix product of the MLP's shape sustains on this device in this run, in GFLOP/s (median)."""
    import torch

    a, b = torch.randn(rows, 576, device=device), torch.randn(1536, 576, device=device)
    rates = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        started = now()
        torch.nn.functional.linear(a, b)
        rates.append(2 * rows * 576 * 1536 / (now() - started) / 1e9)
    return float(np.median(rates))
