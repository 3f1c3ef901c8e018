"""Features of the index modulo 10: a linear probe, a sparse autoencoder, and vector arithmetic with the probe's rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.experiments.successor_heads.items import Items, Reading
from circuitlab.methods.sae.training import Training, train
from circuitlab.scores.intervals import rate_change_interval, rate_interval

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.methods.sae.dictionary import Dictionary

__all__ = ["RESIDUES", "Probe", "arithmetic", "autoencoders", "fit_probe", "probed"]

RESIDUES = 10
_DECAY, _STEPS = 1e-2, 100


@dataclass(frozen=True, eq=False)
class Probe:
    """A multinomial logistic regression from what a head reads of a token to its index modulo 10.

    Parameters
    ----------
    rows : Tensor, shape (10, d_model)
        One direction for each residue.
    bias : Tensor, shape (10,)
    mean : Tensor, shape (d_model,)
        Mean of the training tokens, which is subtracted first.
    scale : float
        Root mean square of the centred training tokens, by which inputs are divided.
    """

    rows: Float[Tensor, "residue d"]
    bias: Float[Tensor, " residue"]
    mean: Float[Tensor, " d"]
    scale: float

    def predict(self, vectors: Float[Tensor, "row d"]) -> np.ndarray:
        """The likeliest residue of each vector."""
        return np.asarray((((vectors.double() - self.mean) / self.scale) @ self.rows.T + self.bias).argmax(1))

    def unit(self) -> Float[Tensor, "residue d"]:
        """The rows, less their mean, with length 1; a row that is 0 stays 0."""
        centred = self.rows - self.rows.mean(0)
        size = centred.norm(dim=1, keepdim=True)
        return centred / torch.where(size > 0, size, 1.0)


def fit_probe(vectors: Float[Tensor, "row d"], residues: np.ndarray) -> Probe:
    """Fit by L-BFGS from zero, with a penalty of 0.01 times the mean square of the weights' products; nothing is random."""
    wide = vectors.double()
    mean = wide.mean(0)
    scale = float((wide - mean).pow(2).mean().sqrt()) or 1.0
    inputs, labels = (wide - mean) / scale, torch.tensor(residues)
    with torch.enable_grad():
        rows = torch.zeros(RESIDUES, wide.shape[1], dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(RESIDUES, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([rows, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = torch.nn.functional.cross_entropy(inputs @ rows.T + bias, labels) + _DECAY * rows.pow(2).sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(loss)  # type: ignore[arg-type]
    return Probe(rows.detach(), bias.detach(), mean, scale)


def probed(
    reading: Reading, items: Items, training: tuple[Sequence[int], np.ndarray], rng: np.random.Generator
) -> tuple[Probe, Probe, dict[str, Any]]:
    """The probe, one of dealt-out residues, and the share of items of lists without a training token whose residue is read.

    Parameters
    ----------
    reading : Reading
    items : Items
        Lists to test on: none of their tokens is trained on.
    training : (tokens, residues)
        Tokens of numbers in all spellings.
    rng : numpy Generator
        Of the order of residues that the control is trained on.
    """
    tokens, residues = training
    vectors = reading.of(tokens)
    probe, control = fit_probe(vectors, residues), fit_probe(vectors, rng.permutation(RESIDUES)[rng.permutation(residues)])
    read, true = reading.of(items.tokens), items.index % RESIDUES
    right = (probe.predict(read) == true).astype(float)
    by_list = {name: float(right[items.rows(name)].mean()) for name in items.names}
    commonest = float(np.bincount(true, minlength=RESIDUES).max() / len(true))
    control_right = float((control.predict(read) == true).mean())
    trained = float((probe.predict(vectors) == residues).mean())
    about = {"right": rate_interval(right).as_dict(), "by_list": by_list, "items": len(true), "commonest": commonest}
    return probe, control, {**about, "permuted": control_right, "on_training": trained, "trained_on": len(tokens)}


def autoencoders(reading: Reading, items: Items, tokens: Sequence[int], seeds: Sequence[int], probe: Probe) -> dict[str, Any]:
    """How often items of one residue share their most important feature, over sparse autoencoders, and with residues dealt out anew.

    A feature's importance for an item is what the next item's logit, above the mean of its list, loses without the feature.
    """
    vectors = reading.of(tokens).float()
    settings = Training(size=256, sparsity=0.02, epochs=400, scale="rms", decoder="unit")
    trained = train(vectors.expand(len(seeds), *vectors.shape), settings, list(seeds))
    true = items.index % RESIDUES
    shares, dealt, cosines = [], [], []
    for dictionary, seed in zip(trained, seeds, strict=True):
        best = _most_important(reading, items, dictionary)
        rng = np.random.default_rng(seed)
        shares.append(_modal(best, true)[0])
        dealt.append(np.mean([_modal(best, rng.permutation(true))[0] for _ in range(20)], axis=0))
        cosines.append(_cosine(dictionary, _modal(best, true)[1], probe))
    modal, control = np.mean(shares, 0), np.mean(dealt, 0)
    return {
        "modal": rate_interval(modal).as_dict(),
        "excess": rate_change_interval(modal - control).as_dict(),
        "permuted": float(control.mean()),
        "residues": len(modal),
        "cosine": float(np.mean(cosines)),
        "explained": float(np.mean([dictionary.explained(vectors) for dictionary in trained])),
        "saes": len(trained),
    }


def _most_important(reading: Reading, items: Items, dictionary: Dictionary) -> np.ndarray:
    """The feature whose removal costs the next item most, for each item; -1 where no feature helps or there is no next item."""
    read = reading.of(items.tokens).float()
    active = dictionary.encode(read)
    best = np.full(len(items.tokens), -1)
    for row in np.flatnonzero(items.following >= 0):
        features = active[row].nonzero()[:, 0]
        if not len(features):
            continue
        rows = items.rows(items.lists[row])
        parts = active[row, features, None] * dictionary.decoder[features] * dictionary.scale
        logits = reading.logits(torch.cat([read[row : row + 1], read[row] - parts]), [items.tokens[i] for i in rows])
        above = logits[:, np.flatnonzero(rows == items.following[row])[0]] - logits.mean(1)
        drop = above[0] - above[1:]
        if drop.max() > 0:
            best[row] = int(features[int(drop.argmax())])
    return best


def _modal(best: np.ndarray, residues: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Share of each residue's items that have its commonest most important feature, and that feature; of items that have one."""
    shares, modes = [], {}
    for residue in np.unique(residues):
        counted = Counter(best[(residues == residue) & (best >= 0)].tolist()).most_common()
        if sum(count for _, count in counted) > 1:
            modes[int(residue)] = counted[0][0]
            shares.append(counted[0][1] / sum(count for _, count in counted))
        else:
            shares.append(0.0)
    return np.array(shares), modes


def _cosine(dictionary: Dictionary, modes: dict[int, int], probe: Probe) -> float:
    directions = probe.unit()
    cosines = [
        float(torch.nn.functional.cosine_similarity(directions[residue], dictionary.decoder[feature].double(), dim=0))
        for residue, feature in modes.items()
    ]
    return float(np.mean(cosines)) if cosines else float("nan")


def arithmetic(reading: Reading, items: Items, probe: Probe, control: Probe) -> dict[str, Any]:
    """Whether moving an item from its residue to another makes the head write what follows the other, list by list.

    ``x' = x - k f_a + k f_b`` with the probe's rows f and k the projection of x, less the training mean, on f_a. It succeeds if the head
    writes the item after the one of residue b in the same ten most of the list.
    """
    lists = {}
    for name in items.names:
        sides = [_moved(reading, items, name, directions) for directions in (probe, control)]
        if not len(sides[0]["each"]):
            continue
        each = sides[0]["each"]
        lists[name] = {
            "right": rate_interval(np.array(each)).as_dict(),
            "permuted": float(np.mean(sides[1]["each"])),
            "chance": 1 / len(items.rows(name)),
            "up": sides[0]["up"],
            "down": sides[0]["down"],
            "grid": sides[0]["grid"],
            "tokens": [items.tokens[row] for row in items.rows(name)],
        }
    return lists


def _moved(reading: Reading, items: Items, name: str, probe: Probe) -> dict[str, Any]:
    rows = items.rows(name)
    tokens, index = [items.tokens[row] for row in rows], items.index[rows]
    read, directions = reading.of(tokens).double(), probe.unit()
    grid: list[list[float | None]] = [[None] * RESIDUES for _ in rows]
    ways: dict[str, list[float]] = {"up": [], "down": []}
    for at, number in enumerate(index.tolist()):
        before = directions[number % RESIDUES]
        size = (read[at] - probe.mean) @ before
        for residue in range(RESIDUES):
            wanted = np.flatnonzero(index == number - number % RESIDUES + residue)
            if residue == number % RESIDUES or not len(wanted) or items.following[rows[wanted[0]]] < 0:
                continue
            moved = (read[at] - size * before + size * directions[residue]).float()[None]
            best = int(reading.logits(moved, tokens)[0].argmax())
            success = float(rows[best] == items.following[rows[wanted[0]]])
            grid[at][residue] = success
            ways["up" if residue > number % RESIDUES else "down"].append(success)
    each = [float(np.mean([value for value in row if value is not None])) for row in grid if any(value is not None for value in row)]
    return {"grid": grid, "each": each, **{way: float(np.mean(values)) if values else None for way, values in ways.items()}}
