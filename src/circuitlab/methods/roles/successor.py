"""Successor heads: attending to an item of an ordered list, they write the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitlab.execute.contract import fields_as_tuples
from circuitlab.execute.single_tokens import Word
from circuitlab.methods.roles.contract import RoleKind, measured
from circuitlab.methods.roles.permutation import permutation_null, scores_from_weights, share_of_hits
from circuitlab.methods.roles.succession import TASKS, Succession, succession

if TYPE_CHECKING:
    from circuitlab.execute.effective_ov import Reads
    from circuitlab.model.protocol import Model
    from circuitlab.scores.role_scores import RoleScores

__all__ = ["Successor", "SuccessorShares"]


@dataclass(frozen=True, eq=False)
class SuccessorShares:
    """Successor scores task by task.

    Parameters
    ----------
    scores : mapping of str to ndarray, each (layer, head)
        Share of pairs of a task that a head gets right; ``"pooled"`` over all pairs, ``"macro"`` the mean over tasks, which numbers do not
        dominate.
    chance : mapping of str to float
        What picking any target of the list gives.
    pairs : mapping of str to int
        How many pairs there are.
    """

    scores: Mapping[str, np.ndarray]
    chance: Mapping[str, float]
    pairs: Mapping[str, int]


@dataclass(frozen=True)
class Successor:
    """Share of items of ordered lists for which a head writes the next item more than any other of the list (Gould et al. 2024).

    The effective OV circuit reads what the first MLP makes of the item, and is compared over the next items of the list in the same
    spelling. A tie counts as wrong: a head that writes nothing has no successor.

    Parameters
    ----------
    tasks : tuple of str
        Any of numbers, number_words, ordinals, days, day_prefixes, months, month_prefixes, letters; all of them together by default.
        Which of their pairs are single tokens depends on the tokenizer: one that splits numbers into digits leaves 1 to 9.
    reads : {"mlp0", "mlp0_unnormed", "stream", "embedding"}
        What heads after layer 0 are given of an item; see `circuitlab.execute.effective_ov.READS`. The script the paper's score is taken
        from is ``"mlp0_unnormed"``.
    orders : tuple of tuples of str or int, optional
        Lists of one's own in place of the tasks, as words (with their leading space) or token ids; one that goes round ends with its first
        item.
    seed : int
        Of the permutations.

    Notes
    -----
    Threshold 0.5, the paper's. `by_task` gives the score of each task, with the chance level.

    Examples
    --------
    >>> Successor(tasks="days").tasks
    ('days',)
    """

    name: ClassVar[str] = "successor"
    estimand: ClassVar[str] = "share of items for which the head, attending to the item alone, writes the next one most of its list"
    units: ClassVar[str] = "share of pairs"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.5
    null: ClassVar[str] = "next items permuted within a list and spelling"
    kind: ClassVar[RoleKind] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("token_vectors", "unedited")
    cost: ClassVar[str] = "weights alone"
    cite: ClassVar[tuple[str, ...]] = ("gould2024",)

    tasks: tuple[str, ...] = tuple(TASKS)
    reads: Reads = "mlp0"
    orders: tuple[tuple[Word, ...], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """One task may be given by itself."""
        fields_as_tuples(self)

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head, over the pairs of all tasks together."""
        pairs = succession(model, self.tasks, self.orders)
        hits = _hits(model, pairs, self.reads)
        null = permutation_null(hits, pairs.blocks, self.seed)
        return scores_from_weights(self, model, share_of_hits(hits), null, tokens=[pairs.sources, pairs.targets])

    def inputs(self, model: Model) -> list[tuple[int, ...]]:
        """Sources and targets of the pairs, as tokens."""
        pairs = succession(model, self.tasks, self.orders)
        return [pairs.sources, pairs.targets]

    @measured
    def by_task(self, model: Model) -> SuccessorShares:
        """The score of every head in each task, with the chance level."""
        pairs = succession(model, self.tasks, self.orders)
        right = np.diagonal(_hits(model, pairs, self.reads), axis1=-2, axis2=-1)
        each = pairs.by_task(np.moveaxis(right, -1, 0).astype(float))
        scores = each | {"macro": np.mean(list(each.values()), axis=0), "pooled": right.mean(-1)}
        counts = {task: pairs.tasks.count(task) for task in each}
        chance = pairs.chance()
        return SuccessorShares(scores, chance, counts | {"pooled": len(pairs.tasks)})


def _hits(model: Model, pairs: Succession, reads: Reads) -> np.ndarray:
    """Whether a head writes the target of pair j most for the source of pair i, (layer, head, i, j); only within a block."""
    import torch  # noqa: PLC0415 - listing roles must not load torch

    from circuitlab.execute.effective_ov import EffectiveOV  # noqa: PLC0415

    circuit = EffectiveOV.of(model, torch.tensor(pairs.sources), reads)
    targets = torch.tensor(pairs.targets)
    hits = np.zeros((model.spec.n_layers, model.spec.n_heads, len(targets), len(targets)), dtype=bool)
    for layer in range(model.spec.n_layers):
        logits = circuit.logits(layer, targets).cpu().numpy()
        for block in np.unique(pairs.blocks):
            mine = np.flatnonzero(pairs.blocks == block)
            hits[layer][:, mine[:, None], mine] = _best(logits[:, mine[:, None], mine])
    return hits


def _best(logits: np.ndarray) -> np.ndarray:
    """Whether an entry is above all others of its row."""
    ordered = np.sort(logits, axis=-1)
    return np.asarray((logits == ordered[..., -1:]) & (ordered[..., -1:] > ordered[..., -2:-1]))
