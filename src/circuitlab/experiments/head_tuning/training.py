"""Train the values of interventions on the answers of a few prompts; the model's weights stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from circuitlab.core.progress import step

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from circuitlab.experiments.head_tuning.prompts import Questions
    from circuitlab.model.interventions import Intervention
    from circuitlab.model.protocol import Model

__all__ = ["Descent", "first_values"]

_BATCH = 8


@dataclass(frozen=True, eq=False)
class Descent:
    """Adam on the mean surprise at the answer, over batches of 8 prompts.

    Parameters
    ----------
    model : Model
        It is edited, and never changed.
    questions : Questions
        What trains.
    steps : int
        Steps of Adam.
    rng : numpy Generator
        Order of the prompts.
    """

    model: Model
    questions: Questions
    steps: int
    rng: np.random.Generator

    def run(
        self,
        value: torch.nn.Parameter,
        edits: Callable[[], Sequence[Intervention]],
        rate: float,
        penalty: Callable[[], Tensor] | None = None,
    ) -> Model:
        """Train ``value``; the model with the edits that ``edits`` makes of it afterwards."""
        optimiser = torch.optim.Adam([value], lr=rate)
        order: list[int] = []
        for number in range(self.steps):
            if len(order) < min(_BATCH, len(self.questions.answers)):
                order = self.rng.permutation(len(self.questions.answers)).tolist()
            rows, order = torch.tensor(order[:_BATCH]), order[_BATCH:]
            optimiser.zero_grad()
            with torch.enable_grad():
                likely = self.questions.likely(self.model.edited(*edits()), rows, gradients=True)
                loss = -likely[torch.arange(len(rows)), self.questions.answers[rows].to(likely.device)].mean()
                (loss if penalty is None else loss + penalty()).backward()
            optimiser.step()
            step(number + 1, self.steps)
        value.requires_grad_(False)
        return self.model.edited(*edits())


def first_values(shape: tuple[int, ...], spread: float, rng: np.random.Generator) -> Tensor:
    """Normal numbers around 0; the global random state is neither read nor changed."""
    return torch.tensor(rng.normal(0.0, spread, shape), dtype=torch.float32)
