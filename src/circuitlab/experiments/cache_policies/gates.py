"""DuoAttention's gates: trained on passkeys, to find the key/value heads that cannot live with sinks and a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.nodes import KVHead
from circuitlab.core.progress import step
from circuitlab.execute.continuations import Begun
from circuitlab.experiments.cache_policies.policies import ANSWERING
from circuitlab.experiments.retrieval_heads.needles import told
from circuitlab.methods.roles.needles import Needle, haystack_sentences, prompt_asking
from circuitlab.model.interventions import KeepKeys

if TYPE_CHECKING:
    from circuitlab.execute.continuations import Continuation
    from circuitlab.model.protocol import Model

__all__ = ["passkeys", "train_gates"]

_RATE, _SPARSITY = 0.02, 0.05
"""DuoAttention's learning rate, and weight of the mean gate in the loss."""
_WORDS = (
    "acorn, basket, candle, dolphin, ember, feather, garden, hammer, island, jacket, kettle, lantern, marble, needle, "
    "orchard, pepper, quarry, ribbon, saddle, timber, umbrella, velvet, walnut, yellow, zebra, anchor, bottle, copper, "
    "dragon, engine, falcon, ginger"
)
_ORDINALS, _SIZE = ("first", "second"), 6


def passkeys(model: Model, length: int, n: int, rng: np.random.Generator) -> tuple[Continuation, ...]:
    """Haystacks with two passkeys of six random words at random places, one of which is asked for and said."""
    rows, known = [], _WORDS.split(", ")
    for _ in range(n):
        needles = []
        for ordinal in _ORDINALS:
            words = " ".join(known[i] for i in rng.choice(len(known), _SIZE, replace=False).tolist())
            needles.append(Needle(f"The {ordinal} passkey to the vault is {words}.", f"What is the {ordinal} passkey to the vault?", words))
        sentences = haystack_sentences(model, length, rng)
        for needle in needles:
            sentences.insert(int(rng.integers(len(sentences) + 1)), needle.sentence)
        wanted = needles[int(rng.integers(len(needles)))]
        prompt, _, _ = prompt_asking(model, " ".join(sentences), wanted, chat=True)
        rows.append(told(model, prompt.ids, wanted))
    return tuple(rows)


def train_gates(model: Model, rows: Sequence[Continuation], keep: tuple[int, int], steps: int, rng: np.random.Generator) -> dict[str, Any]:
    """A gate for every key/value head: which share of its attention to all keys the answers need.

    Attention while an answer is given is the gate times that to all keys, and one minus the gate times that to sinks and window. The loss
    is the mean squared change of the last normed residual stream before the answer's tokens, and 0.05 times the mean gate; Adam, one
    answer at a time, with a rate that falls from 0.02 to 0 in a line. Gates start at 1 and are held between 0 and 1.

    Parameters
    ----------
    model : Model
        It is edited, and never changed.
    rows : sequence of Continuation
        Passkeys after their prompts.
    keep : (int, int)
        First and last keys that are kept.
    steps : int
        Steps of Adam; with 100, a gate that nothing holds back reaches 0.
    rng : numpy Generator
        Order of the answers.

    Returns
    -------
    dict
        ``gates``, (layer, kv_head); ``loss``, the squared change at each step.
    """
    spec, norm = model.spec, model.weights.final_norm.apply
    groups = [KVHead(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_kv_heads)]
    gates = torch.nn.Parameter(torch.ones(len(groups)))
    edited = model.edited(KeepKeys(groups, sinks=keep[0], window=keep[1], gate=gates, positions=ANSWERING))
    begun = Begun.of(model, rows)
    with torch.no_grad():
        targets = [norm(begun.final(model, number).float()) for number in range(len(rows))]
    optimiser = torch.optim.Adam([gates], lr=_RATE)
    order: list[int] = []
    losses = []
    for number in range(steps):
        order = order or rng.permutation(len(rows)).tolist()
        row = order.pop()
        optimiser.param_groups[0]["lr"] = _RATE * (1 - number / steps)
        with torch.enable_grad():
            change = (norm(begun.final(edited, row).float()) - targets[row]).square().mean()
            (gradient,) = torch.autograd.grad(change + _SPARSITY * gates.mean(), gates)
        gates.grad = gradient
        optimiser.step()
        with torch.no_grad():
            gates.clamp_(0.0, 1.0)
        losses.append(round(float(change.detach()), 6))
        step(number + 1, steps)
    return {"gates": gates.detach().reshape(spec.n_layers, spec.n_kv_heads).double().numpy().round(5).tolist(), "loss": losses}
