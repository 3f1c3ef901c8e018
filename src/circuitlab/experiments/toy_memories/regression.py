"""One layer of softmax attention trained on linear regression in its context, and what its weights become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.core.progress import step
from circuitlab.scores.intervals import mean_interval, rate_interval

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Setting", "Trained", "Weights", "described", "predicted", "train"]

_START = 0.1
_RATE = 5e-3
_TESTED = 2000


@dataclass(frozen=True)
class Setting:
    """The problem and the training.

    Parameters
    ----------
    dim, examples : int
        Width of the covariates, and examples in a context.
    noise : float
        Standard deviation of the noise of the targets.
    steps, rows : int
        Steps of Adam, and contexts in each.
    related : bool
        Whether targets follow from the covariates; otherwise they are noise of the same size (a control).
    """

    dim: int = 5
    examples: int = 40
    noise: float = 0.3
    steps: int = 4000
    rows: int = 64
    related: bool = True


@dataclass(frozen=True, eq=False)
class Weights:
    """Attention of one layer for several seeds.

    Parameters
    ----------
    kq : Tensor, shape (seed, head, dim + 1, dim + 1)
        The score of example i is ``(x_i; y_i) kq (x_q; 0)``.
    ov : Tensor, shape (seed, head, dim + 1)
        The row of each head's output that is the prediction.
    """

    kq: Float[Tensor, "seed head row column"]
    ov: Float[Tensor, "seed head row"]


@dataclass(frozen=True, eq=False)
class Trained:
    """Weights before and after training, and the loss on the way.

    Parameters
    ----------
    first, last : Weights
        Weights.
    loss : ndarray, shape (point, seed)
        Mean squared error of the training contexts, averaged over each twentieth of the steps.
    """

    first: Weights
    last: Weights
    loss: np.ndarray


Problem = tuple["Tensor", "Tensor", "Tensor"]


def _problem(setting: Setting, seeds: int, rows: int, generator: torch.Generator) -> Problem:
    """Examples (seed, row, example, dim + 1), queries (seed, row, dim + 1) whose last entry is 0, and their targets (seed, row)."""
    x = torch.randn(seeds, rows, setting.examples + 1, setting.dim, generator=generator)
    slope = torch.randn(seeds, rows, setting.dim, 1, generator=generator) / setting.dim**0.5
    clean = (x @ slope)[..., 0] if setting.related else torch.randn(x.shape[:-1], generator=generator)
    y = clean + setting.noise * torch.randn(clean.shape, generator=generator)
    z = torch.cat([x, y[..., None]], dim=-1)
    query = z[..., -1, :].clone()
    query[..., -1] = 0.0
    return z[..., :-1, :], query, y[..., -1]


def predicted(weights: Weights, examples: Float[Tensor, "seed row example width"], query: Float[Tensor, "seed row width"]) -> Tensor:
    """The prediction for every query, shape (seed, row)."""
    scores = torch.einsum("srnd,shde,sre->shrn", examples, weights.kq, query)
    read = torch.einsum("shrn,srnd->shrd", scores.softmax(-1), examples)
    return torch.einsum("shrd,shd->sr", read, weights.ov)


def train(setting: Setting, heads: int, seeds: int, seed: int) -> Trained:
    """Train attention from random weights, for several seeds at once; the global random state is not used."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + heads)
    width = setting.dim + 1
    with torch.enable_grad():
        kq = torch.nn.Parameter(_START * torch.randn(seeds, heads, width, width, generator=generator))
        ov = torch.nn.Parameter(_START * torch.randn(seeds, heads, width, generator=generator))
        first = Weights(kq.detach().clone(), ov.detach().clone())
        optimiser = torch.optim.Adam([kq, ov], lr=_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, setting.steps)
        losses = []
        for number in range(setting.steps):
            examples, query, target = _problem(setting, seeds, setting.rows, generator)
            loss = (predicted(Weights(kq, ov), examples, query) - target).square().mean(-1)
            optimiser.zero_grad()
            loss.sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(loss.detach().double().numpy())
            step(number + 1, setting.steps)
    points = np.array_split(np.stack(losses), min(20, setting.steps))
    return Trained(first, Weights(kq.detach(), ov.detach()), np.stack([part.mean(0) for part in points]))


def described(setting: Setting, weights: Weights, seed: int) -> dict[str, Any]:
    """How far weights have the published form, and predict like gradient descent; intervals over seeds.

    Returns
    -------
    dict
        ``off_diagonal``: mean absolute key-query weight off the diagonal of the covariates (the last row included), relative to the mean
        absolute weight on it. ``uneven``: standard deviation of the diagonal within a head, relative to the same. ``sum``: absolute sum of
        the heads' output weights of the target, relative to the sum of their absolute values. ``other_outputs``: mean absolute output
        weight of the covariates, relative to the mean absolute one of the target. ``debiased``, ``plain``: share of the variance of the
        predictions that one step of gradient descent explains, whose step length is fitted, with and without the mean of the targets taken
        off. ``risk``, ``debiased_risk``, ``ridge_risk``: mean squared error of the predictions, of that step with its best length, and of
        ridge regression with the right penalty.
    """
    d = setting.dim
    block, last = weights.kq[..., :d, :d].double(), weights.kq[..., d:, :d].double()
    diagonal = block.diagonal(dim1=-2, dim2=-1)
    size = diagonal.abs().mean((-1, -2))
    off = (block - torch.diag_embed(diagonal)).abs().sum((-1, -2)) + last.abs().sum((-1, -2))
    outputs = weights.ov.double()
    target = outputs[..., d]
    form = {
        "off_diagonal": off.mean(-1) / (d * d) / size,
        "uneven": diagonal.std(-1).mean(-1) / size,
        "sum": target.sum(-1).abs() / target.abs().sum(-1),
        "signs": ((target > 0).any(-1) & (target < 0).any(-1)).double(),
        "other_outputs": outputs[..., :d].abs().mean((-1, -2)) / target.abs().mean(-1),
    }
    measured = {**form, **_compared(setting, weights, seed)}
    intervals = {name: (rate_interval if name == "signs" else mean_interval)(value.numpy()) for name, value in measured.items()}
    return {name: {**intervals[name].as_dict(), "seeds": value.tolist()} for name, value in measured.items()}


@torch.no_grad()
def _compared(setting: Setting, weights: Weights, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7_000_003 + seed)
    examples, query, target = _problem(setting, len(weights.kq), _TESTED, generator)
    said = predicted(weights, examples, query).double()
    x, y, asked = examples[..., : setting.dim].double(), examples[..., setting.dim].double(), query[..., : setting.dim].double()
    kernel = torch.einsum("srnd,srd->srn", x, asked) / setting.examples
    steps = {"debiased": ((y - y.mean(-1, keepdim=True)) * kernel).sum(-1), "plain": (y * kernel).sum(-1)}
    explained = {name: 1 - (said - _fitted(step_taken, said)).square().mean(-1) / said.var(-1) for name, step_taken in steps.items()}
    penalty = setting.dim * setting.noise**2
    gram = x.mT @ x + penalty * torch.eye(setting.dim, dtype=x.dtype)
    ridge = (torch.linalg.solve(gram, (x.mT @ y[..., None]))[..., 0] * asked).sum(-1)
    goal = target.double()
    risks = {"risk": said, "debiased_risk": _fitted(steps["debiased"], goal), "ridge_risk": ridge}
    return {**explained, **{name: (value - goal).square().mean(-1) for name, value in risks.items()}}


def _fitted(direction: Tensor, goal: Tensor) -> Tensor:
    """The multiple of a direction that is closest to a goal, for each seed."""
    length = (direction * goal).sum(-1, keepdim=True) / direction.square().sum(-1, keepdim=True)
    return length * direction
