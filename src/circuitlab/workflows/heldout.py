"""Prompts that a circuit was not found on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitlab.core.errors import BadParameterError
from circuitlab.core.provenance import TaskRef

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["fresh_pairs"]


def fresh_pairs(model: Model, where: TaskRef, n: int | None = None, task: str | None = None) -> tuple[ContrastBatch, str]:
    """The pairs that follow the scored ones in the task's stream, and a sentence that says so.

    Parameters
    ----------
    model : Model
        Its tokenizer encodes.
    where : TaskRef
        The pairs that were scored.
    n : int, optional
        How many pairs; as many as were scored otherwise.
    task : str, optional
        The task's name or file; its id in ``where`` otherwise.

    Returns
    -------
    ContrastBatch
        Where the task has too few further pairs, the scored ones (the first ``n`` of them) once more.
    str
        Which pairs these are.
    """
    from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415 - torch

    used, source = where.n_pairs, task or where.id
    wanted = n or used
    try:
        batch = prepare_batch(model, source, used + wanted, variant=where.variant, seed=where.seed)
    except BadParameterError:
        batch = prepare_batch(model, source, used, variant=where.variant, seed=where.seed).select(range(min(wanted, used)))
        return batch, f"{batch.n_pairs} of the {used} pairs that were scored (the task has too few others): numbers are optimistic"
    return batch.select(range(used, used + wanted)), f"{wanted} fresh pairs: those after the {used} that were scored"
