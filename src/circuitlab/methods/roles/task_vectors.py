"""Task-vector heads: what they say at the end of in-context prompts makes the model do the task where nothing shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.progress import step
from circuitlab.execute.contract import fields_as_tuples
from circuitlab.methods.roles.contract import RoleKind, measured, role_provenance
from circuitlab.methods.roles.in_context import TASKS, InContextTask, in_context_task
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.scores.intervals import mean_interval
from circuitlab.scores.role_scores import RoleScores

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from circuitlab.model.protocol import Model

__all__ = ["TaskVector"]

_LOGITS = 2**28
"""Bytes of logits that one sweep may return."""


@dataclass(frozen=True)
class TaskVector:
    """Rise of the right answer when a head says what it says on average in prompts of a task (function vectors, Todd et al. 2024).

    Prompts show pairs of a rule and ask for one more. Where the answers of the pairs are dealt anew, nothing shows the rule; there, the
    head's output at the last token is replaced by its mean over prompts that do show it.

    Parameters
    ----------
    tasks : tuple of str
        Names of `circuitlab.methods.roles.in_context.TASKS`, or of other tasks whose prompts are drawn from a table.
    n : int
        Prompts of each task.
    shots : int
        Demonstrations in a prompt.
    seed : int
        Of the prompts.
    prompts : tuple of InContextTask, optional
        Prompts of one's own as token ids, in place of tasks.

    Notes
    -----
    The value is the paper's average indirect effect: the rise of the probability of the right answer, mean over prompts and then over
    tasks. A prompt is left out of the mean that is given to it. The control gives the head's mean over prompts whose answers are dealt
    anew, so that a head which only makes any answer likelier does not earn the role. Samples are tasks: the interval says what to expect
    of another one like these. The paper has 10 demonstrations, too, and takes the 10 heads of largest effect whatever it is; the threshold
    here, one hundredth of probability from a single head, was fixed before any model was measured. A model that the demonstrations
    do not help has no such heads, and is refused.

    References
    ----------
    Todd et al. (2024), Function Vectors in Large Language Models, arXiv:2310.15213.

    Examples
    --------
    >>> TaskVector(tasks=("plurals", "past_tense")).shots
    10
    """

    name: ClassVar[str] = "task_vector"
    estimand: ClassVar[str] = (
        "rise of the right answer's probability when the head's output at the end of prompts that show no rule is its mean over prompts "
        "that do"
    )
    units: ClassVar[str] = "probability"
    within: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    threshold: ClassVar[float] = 0.01
    null: ClassVar[str] = "the same with the head's mean over prompts whose demonstrations' answers are dealt anew"
    kind: ClassVar[RoleKind] = "behaviour"
    needs: ClassVar[tuple[str, ...]] = ("gradients", "tokenizer")
    sites: ClassVar[tuple[Site, ...]] = (Site.Z,)
    by_default: ClassVar[bool] = False
    cost: ClassVar[str] = "8 tasks of 8 prompts, and 2 runs of the last token for each head and prompt"
    cite: ClassVar[tuple[str, ...]] = ("todd2024",)

    tasks: tuple[str, ...] = TASKS
    n: int = 8
    shots: int = 10
    seed: int = 0
    prompts: tuple[InContextTask, ...] = field(default=(), repr=False, metadata={"identity": False})

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        if min(len(self.prompts or self.tasks), self.n, self.shots) < 2:  # noqa: PLR2004 - an interval, a mean of others, another order
            count = len(self.prompts or self.tasks)
            what = f"{count} tasks of n={self.n} prompts with shots={self.shots} demonstrations cannot be compared."
            raise BadParameterError(what, "Use two or more of each, such as 8 tasks, n=8 and shots=10.")
        if self.prompts:  # token ids need no tokenizer
            object.__setattr__(self, "needs", tuple(need for need in self.needs if need != "tokenizer"))

    def inputs(self, model: Model) -> dict[str, Any]:
        """The token ids that are run."""
        return {"tasks": [one.plain() for one in self._given(model)]}

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `ModelError` where demonstrations do not help the model."""
        given, spec = self._given(model), model.spec
        likely = np.array([[_likely(model, side, task.answers).mean() for side in (task.clean, task.corrupt)] for task in given])
        if not (low := float(mean_interval(likely[:, 0] - likely[:, 1]).low)) > 0:
            shown, dealt = likely.mean(0)
            what = (
                f"Demonstrations do not help {spec.name}: the right answer has probability {shown:.3g} after them and {dealt:.3g} where "
                f"their answers are dealt anew, and the interval of the difference begins at {low:.3g}."
            )
            raise ModelError(what, "Use tasks that the model can do, or fewer or more demonstrations (tasks=, shots=).")
        both = np.stack([_effects(model, task, number, len(given)) for number, task in enumerate(given)])
        about = role_provenance(self, model, "in-context tasks", self.inputs(model))
        return RoleScores(both[:, 0], about, both[:, 1])

    def _given(self, model: Model) -> tuple[InContextTask, ...]:
        return self.prompts or tuple(in_context_task(model, name, self.n, self.shots, self.seed) for name in self.tasks)


def _likely(model: Model, prompts: tuple[tuple[int, ...], ...], answers: tuple[int, ...]) -> np.ndarray:
    """Probability of each prompt's answer, (prompt,)."""
    import torch  # noqa: PLC0415 - listing roles must not load torch

    tokens = [torch.tensor([row]) for row in prompts]
    logits = [model.logits(row, torch.tensor([row.shape[1] - 1]))[0] for row in tokens]
    return np.array([float(one.double().softmax(-1)[answer]) for one, answer in zip(logits, answers, strict=True)])


def _effects(model: Model, task: InContextTask, number: int, count: int) -> np.ndarray:
    """Mean effect of each head in a task, given its mean over clean prompts, and over corrupt ones, (2, layer, head)."""
    import torch  # noqa: PLC0415

    spec = model.spec
    means = torch.stack([_means_of_others(model, side) for side in (task.clean, task.corrupt)])  # side, prompt, layer, head, d_head
    total = np.zeros((2, spec.n_layers, spec.n_heads))
    base = _likely(model, task.corrupt, task.answers)
    for row, (prompt, answer) in enumerate(zip(task.corrupt, task.answers, strict=True)):
        after = _patched(model, prompt, answer, means[:, row])
        total += after - base[row]
        step(number * len(task.corrupt) + row + 1, count * len(task.corrupt))
    return total / len(task.corrupt)


def _means_of_others(model: Model, prompts: tuple[tuple[int, ...], ...]) -> Float[Tensor, "prompt layer head d_head"]:
    """For each prompt, the mean output of every head at the last token of the other prompts."""
    import torch  # noqa: PLC0415

    rows = [torch.tensor([prompt]) for prompt in prompts]
    z = torch.cat([model.capture(row, [Site.Z], at=torch.tensor([row.shape[1] - 1]))[Site.Z] for row in rows])
    return (z.sum(0) - z) / (len(z) - 1)


def _patched(model: Model, prompt: tuple[int, ...], answer: int, means: Float[Tensor, "side layer head d_head"]) -> np.ndarray:
    """Probability of the answer with each mean of each head in place of its output at the last token, (side, layer, head)."""
    import torch  # noqa: PLC0415

    end = torch.tensor([len(prompt) - 1])

    def edits() -> Iterator[EditSet]:
        for side, layer, head in np.ndindex(*means.shape[:3]):
            yield EditSet((Edit(Site.Z, layer, means[side, layer, head][None], head=head, positions=end),), int(end))

    sets, likely = list(edits()), []
    together = max(1, _LOGITS // (4 * model.spec.d_vocab))
    for first in range(0, len(sets), together):
        logits = model.sweep(torch.tensor([prompt]), end, sets[first : first + together])[:, 0]
        likely.append((logits[:, answer].double() - logits.double().logsumexp(-1)).exp().cpu())
    return torch.cat(likely).numpy().reshape(tuple(means.shape[:3]))
