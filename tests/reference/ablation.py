"""Circuits run on plain Hugging Face models through hooks, one circuit and one prompt at a time.

Nodes: outputs of heads (z) and MLPs outside the circuit are replaced while the model runs. Edges: the stream that each input reads is
added up sender by sender, and the model's own modules compute each layer from those streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from reference.eap import Hooks, Layer, Outputs, final_norm, layers_of, outputs, projection

__all__ = ["areas", "edge_logits", "edge_names", "kind_outputs", "mean_outputs", "node_logits", "zero_outputs"]


def zero_outputs(like: Outputs) -> Outputs:
    """Outputs of a run in which nothing was put out."""
    zeros = [[torch.zeros_like(value) for value in part] for part in (like.z, like.raw, like.mlp)]
    return Outputs(torch.zeros_like(like.embed), *zeros)


def mean_outputs(runs: list[Outputs], length: int, *, by_position: bool) -> Outputs:
    """Mean over prompts, at each position or over all positions of all prompts, for a prompt of some length."""

    def mean(values: list[torch.Tensor]) -> torch.Tensor:
        if by_position:
            return torch.stack(values).mean(0)
        return torch.cat([value[0] for value in values]).mean(0).expand(1, length, -1)

    parts = [[mean([getattr(run, name)[n] for run in runs]) for n in range(len(runs[0].z))] for name in ("z", "raw", "mlp")]
    return Outputs(mean([run.embed for run in runs]), *parts)


def kind_outputs(runs: list[Outputs], kinds: list[list[Any]], prompt: int) -> Outputs:
    """What one prompt gets: at each position, the mean over all positions of all prompts that are of the same kind."""

    def mean(values: list[torch.Tensor]) -> torch.Tensor:
        rows = []
        for kind in kinds[prompt]:
            alike = [value[0, at] for value, own in zip(values, kinds, strict=True) for at, other in enumerate(own) if other == kind]
            rows.append(torch.stack(alike).mean(0))
        return torch.stack(rows)[None]

    parts = [[mean([getattr(run, name)[n] for run in runs]) for n in range(len(runs[0].z))] for name in ("z", "raw", "mlp")]
    return Outputs(mean([run.embed for run in runs]), *parts)


@torch.no_grad()
def node_logits(
    hf: Any, tokens: torch.Tensor, ablated: list[str], values: Outputs, limited: dict[str, list[int]] | None = None
) -> torch.Tensor:
    """Logits at the last position, (vocab,), with the named heads (``a1.h2``) and MLPs (``m0``) given other values.

    Nodes in ``limited`` are given them everywhere but at these positions.
    """
    heads, limited = hf.config.num_attention_heads, limited or {}

    def mixed(name: str, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        out = other.to(own).clone() if name in ablated or name in limited else own.clone()
        if name in limited and name not in ablated:
            out[:, limited[name]] = own[:, limited[name]]
        return out

    with Hooks() as hooks:
        for n, layer in enumerate(layers_of(hf)):

            def swap(z: torch.Tensor, n: int = n) -> torch.Tensor:
                z, width = z.clone(), z.shape[-1] // heads
                for head in range(heads):
                    part = slice(head * width, (head + 1) * width)
                    z[..., part] = mixed(f"a{n}.h{head}", z[..., part], values.z[n][..., part])
                return z

            hooks.before(layer.out, swap)
            hooks.after(layer.post_mlp or layer.mlp, lambda out, n=n: mixed(f"m{n}", out, values.mlp[n]))
        return hf(tokens).logits[0, -1]


def edge_names(hf: Any, *, parallel: bool = False) -> list[str]:
    """Every edge: receiver by receiver, senders in forward order."""
    config = hf.config
    heads, shared = config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    found, senders = [], ["embed"]
    for n in range(config.num_hidden_layers):
        mine = [f"a{n}.h{head}" for head in range(heads)]
        ports = [f"{name}<q>" for name in mine] + [f"a{n}.kv{head}<{port}>" for port in "kv" for head in range(shared)]
        found += [f"{sender}->{port}" for port in ports for sender in senders]
        found += [f"{sender}->m{n}" for sender in (senders if parallel else senders + mine)]
        senders = [*senders, *mine, f"m{n}"]
    return found + [f"{sender}->logits" for sender in senders]


@dataclass
class Circuit:
    """One circuit on one prompt: what every sender wrote in this run, and what it writes along ablated edges."""

    edges: set[str]
    biases: torch.Tensor
    own: dict[str, torch.Tensor]
    other: dict[str, torch.Tensor]
    limited: dict[str, list[int]]

    def stream(self, receiver: str, senders: list[str]) -> torch.Tensor:
        """What a receiver reads."""
        total = self.biases.clone()
        for sender in senders:
            edge, write = f"{sender}->{receiver}", self.other[sender]
            if edge in self.edges:
                kept = self.limited.get(edge, range(total.shape[1]))
                write = torch.stack([(self.own if at in kept else self.other)[sender][:, at] for at in range(total.shape[1])], dim=1)
            total = total + write
        return total


def _write(layer: Layer, z: torch.Tensor, heads: int) -> list[torch.Tensor]:
    """What each head adds to the residual stream; a post-norm multiplies every part as it multiplies the whole."""
    weight = layer.out.weight if type(layer.out).__name__ == "Conv1D" else layer.out.weight.T
    width = weight.shape[0] // heads
    parts = [z[..., head * width : (head + 1) * width] @ weight[head * width : (head + 1) * width] for head in range(heads)]
    if layer.post_attn is None:
        return parts
    whole = sum(parts)
    factor = torch.where(whole == 0, 0.0, layer.post_attn.forward(whole) / whole)  # nothing written, nothing to share
    return [part * factor for part in parts]


@torch.no_grad()
def edge_logits(
    hf: Any,
    clean: torch.Tensor,
    values: Outputs,
    edges: set[str],
    *,
    parallel: bool = False,
    limited: dict[str, list[int]] | None = None,
) -> torch.Tensor:
    """Logits at the last position, (vocab,): edges outside the circuit carry what their senders write in ``values``.

    Edges in ``limited`` do so everywhere but at these positions.
    """
    layers, config = layers_of(hf), hf.config
    heads, shared = config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    embed = outputs(hf, clean).embed
    run = Circuit(edges, torch.zeros_like(embed), {"embed": embed}, {"embed": values.embed}, limited or {})
    senders = ["embed"]
    for n, layer in enumerate(layers):
        mine = [f"a{n}.h{head}" for head in range(heads)]
        before, biases = list(senders), run.biases
        seen: list[torch.Tensor] = []
        with Hooks() as hooks:
            for port, count in (("q", heads), ("k", shared), ("v", shared)):
                for head in range(count):
                    receiver = f"a{n}.{'h' if port == 'q' else 'kv'}{head}<{port}>"
                    module, part = projection(layer, port, head, d_head)

                    value = module.forward(layer.norm_attn.forward(run.stream(receiver, before)))[..., part]

                    def put(out: Any, value: torch.Tensor = value, part: slice = part) -> Any:
                        out = out.clone()
                        out[..., part] = value
                        return out

                    hooks.after(module, put)
            hooks.before(layer.out, seen.append)
            hf(clean)
        for table, z in ((run.own, seen[0]), (run.other, values.z[n])):
            table.update(zip(mine, _write(layer, z, heads), strict=True))
        if layer.out.bias is not None:
            run.biases = biases + layer.out.bias
        if parallel:  # reads what attention reads, without this layer's bias
            late, run.biases = run.biases, biases
            stream, run.biases = run.stream(f"m{n}", before), late
        else:
            stream = run.stream(f"m{n}", before + mine)
        written = layer.mlp.forward(layer.norm_mlp.forward(stream))
        run.own[f"m{n}"] = written if layer.post_mlp is None else layer.post_mlp.forward(written)
        run.other[f"m{n}"] = values.mlp[n]
        senders = [*before, *mine, f"m{n}"]
    with Hooks() as hooks:
        hooks.before(final_norm(hf), lambda _x: run.stream("logits", senders))
        return hf(clean).logits[0, -1]


def areas(fractions: list[float], faithfulness: list[float], *, log: bool = False) -> tuple[float, float]:
    """CPR and CMD, trapezoid by trapezoid."""
    above = below = 0.0
    for i in range(len(fractions) - 1):
        first, second = (math.log(k) if log else k for k in fractions[i : i + 2])
        f, g = faithfulness[i : i + 2]
        above += (second - first) * (f + g) / 2
        below += (second - first) * (abs(1 - f) + abs(1 - g)) / 2
    return above, below
