"""Make a batch that a model can run from whatever a user may pass as prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from circuitlab.core.errors import BadParameterError
from circuitlab.core.provenance import WEIGHTS_ALONE, TaskRef
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.prepare import prepare_batch
from circuitlab.tasks.spec import Task
from circuitlab.workflows.fitness import Judged, judge_batch, judge_task

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["FITNESS_PAIRS", "Draws", "Prompts", "held_out", "prompts_with_fitness", "to_batch_of"]

Prompts: TypeAlias = str | Path | Task | ContrastBatch
"""A task id or file, a table of pairs, a task, or a batch of token ids."""

FITNESS_PAIRS = 64
"""Number of pairs that fitness is judged on: forward passes are cheap compared with patching, and a verdict needs more than 16 pairs."""


@dataclass(frozen=True)
class Draws:
    """The first ``n`` pairs of a task's stream, for this variant and seed."""

    n: int = 16
    variant: str | None = None
    seed: int = 0


def to_batch_of(model: Model, prompts: Prompts, draws: Draws) -> ContrastBatch:
    """The pairs as a batch; a `ContrastBatch` is returned whole."""
    if isinstance(prompts, ContrastBatch):
        return prompts
    return prepare_batch(model, prompts, draws.n, variant=draws.variant, seed=draws.seed)


def prompts_with_fitness(model: Model, prompts: Prompts, draws: Draws) -> tuple[ContrastBatch, Callable[[], Judged]]:
    """The pairs as a batch, and a function that judges whether the model can do the task."""
    batch = to_batch_of(model, prompts, draws)

    def fitness() -> Judged:
        if isinstance(prompts, ContrastBatch):
            return judge_batch(model, prompts)
        wanted = max(draws.n, FITNESS_PAIRS)
        return judge_task(model, prompts, wanted, variant=draws.variant, seed=draws.seed, least=draws.n)

    return batch, fitness


def held_out(model: Model, prompts: Prompts, spent: TaskRef, n: int | None = None) -> tuple[ContrastBatch, str]:
    """Pairs that a circuit was not selected on, and a phrase that describes them.

    Parameters
    ----------
    model : Model
        Its tokenizer encodes the pairs.
    prompts : str, Path, Task or ContrastBatch
        The source of the scored pairs.
    spent : TaskRef
        The pairs that were scored, or `WEIGHTS_ALONE`.
    n : int, optional
        Number of pairs; by default as many as were scored (16 for scores from weights alone).

    Returns
    -------
    ContrastBatch
        The pairs that follow the scored ones in the task's stream. If the task has too few further pairs, the first ``n`` of the scored
        ones again; a batch of token ids is used whole. For scores from weights alone, the first ``n`` pairs of the task.
    str
        Description of these pairs.
    """
    if spent == WEIGHTS_ALONE:
        batch = to_batch_of(model, prompts, Draws(n or Draws.n))
        return batch, f"{batch.n_pairs} pairs, all fresh: the circuit was picked from weights alone"
    if isinstance(prompts, ContrastBatch):
        same = prompts.task.digest == spent.digest
        which = "the pairs that were scored: numbers are optimistic" if same else "other pairs than those that were scored"
        return prompts, f"{prompts.n_pairs} pairs, {which}"
    used = spent.n_pairs
    wanted = n or used
    try:
        batch = prepare_batch(model, prompts, used + wanted, variant=spent.variant, seed=spent.seed)
    except BadParameterError:
        batch = prepare_batch(model, prompts, used, variant=spent.variant, seed=spent.seed).select(range(min(wanted, used)))
        return batch, f"{batch.n_pairs} of the {used} pairs that were scored (the task has too few others): numbers are optimistic"
    return batch.select(range(used, used + wanted)), f"{wanted} fresh pairs: those after the {used} that were scored"
