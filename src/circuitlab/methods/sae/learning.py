"""Learn codes from a batch: run the model, train dictionaries on a few prompts, and encode all prompts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.provenance import digest
from circuitlab.methods.sae.outputs import node_outputs, nodes_of
from circuitlab.methods.sae.sample import CodeSample
from circuitlab.methods.sae.training import Training, train

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.methods.sae.dictionary import Dictionary
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["MEAN", "Plan", "learn_codes"]

MEAN = "mean"
"""The name that stands for the mean over positions."""


@dataclass(frozen=True)
class Plan:
    """The outputs that are encoded, and the training of dictionaries.

    Parameters
    ----------
    places : tuple of str
        `MEAN` or marks.
    mlps : bool
        Whether MLPs are nodes, too.
    examples, trials, seed : int
        Number of prompts to train on, number of dictionaries to train, and the seed of both.
    training : Training
        Settings of the training.
    """

    places: tuple[str, ...] = (MEAN,)
    mlps: bool = False
    examples: int = 10
    trials: int = 5
    seed: int = 0
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if min(self.examples, self.trials) < 1 or not self.places:
            what = f"examples={self.examples}, trials={self.trials}, positions={self.places}: nothing can be trained."
            raise BadParameterError(what, "Use at least one of each.")


def learn_codes(
    model: Model,
    batch: ContrastBatch,
    plan: Plan,
    dictionaries: Sequence[Dictionary] = (),
) -> tuple[CodeSample, dict[str, float]]:
    """Codes of every clean and corrupt prompt.

    Parameters
    ----------
    model, batch : Model, ContrastBatch
        The model, and the pairs: clean prompts are positives, corrupt prompts negatives.
    plan : Plan
        The outputs to encode, and the training.
    dictionaries : sequence of Dictionary, optional
        Used instead of training, one trial each.

    Returns
    -------
    CodeSample
        The codes.
    dict of str to float
        ``model_seconds``, ``training_seconds`` and ``encoding_seconds``.

    Notes
    -----
    Training depends neither on labels nor on the order of prompts: examples are drawn from the distinct prompts of both sides by a hash of
    their tokens, so that a prompt that occurs twice is drawn at most once.
    """
    import torch  # noqa: PLC0415 - listing methods must not load torch

    started = time.perf_counter()
    tokens, end = torch.cat([batch.clean, batch.corrupt]), torch.cat([batch.end, batch.end])
    marks = [None if place == MEAN else batch.mark(place) for place in plan.places]
    places = [None if mark is None else torch.cat([mark, mark]) for mark in marks]
    outputs = node_outputs(model, tokens, end, places, mlps=plan.mlps)
    ran = time.perf_counter()
    if not dictionaries:
        seeds = [int(digest([plan.seed, trial])[:8], 16) for trial in range(plan.trials)]
        rows = torch.stack([outputs[_examples(tokens, end, plan.examples, seed)].flatten(0, 2) for seed in seeds])
        dictionaries = train(rows, plan.training, seeds)
    trained = time.perf_counter()
    codes = np.stack([dictionary.codes(outputs).numpy() for dictionary in dictionaries])
    explained = tuple(dictionary.explained(outputs) for dictionary in dictionaries)
    nodes = nodes_of(model.spec, mlps=plan.mlps)
    sample = CodeSample(codes[:, : batch.n_pairs], codes[:, batch.n_pairs :], nodes, plan.places, tuple(dictionaries), explained)
    stages = {"model": ran - started, "training": trained - ran, "encoding": time.perf_counter() - trained}
    return sample, {f"{stage}_seconds": seconds for stage, seconds in stages.items()}


def _examples(tokens: Tensor, end: Tensor, count: int, seed: int) -> list[int]:
    """Rows of distinct prompts drawn with a seed, in an order that depends on their content only."""
    rows = {tuple(row[: stop + 1]): i for i, (row, stop) in enumerate(zip(tokens.tolist(), end.tolist(), strict=True))}
    return [rows[key] for key in sorted(rows, key=lambda key: digest([seed, key]))[:count]]
