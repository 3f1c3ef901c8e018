"""The attention-edit repair: move the attention of chosen heads to the wrong options and measure accuracy again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.circuits.chance import p_value
from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.experiments.controls import random_heads
from circuitlab.methods.roles.attention import attention_between
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.scores.intervals import mean_interval, proportion_interval

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.model.runner import Runner

__all__ = ["Repair", "shift_of"]

_SETS_AT_ONCE = 32
"""Sets of heads that share one unedited run. The logits of all of them are in memory together."""
_PAIRS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Repair:
    """Run the clean prompts while chosen heads attend to the wrong options from the answer position.

    For each chosen head, the row of the attention pattern at the answer position is set, after the softmax, to equal weights on the wrong
    options and 0 elsewhere. Nothing else is held fixed or edited. A prediction is right if the most probable token of the whole vocabulary
    is an answer.

    Parameters
    ----------
    model : Model
    batch : ContrastBatch
        Only its clean prompts are run.
    wrong : tuple of str
        Marks of the options that are not the answer.

    Raises
    ------
    BadParameterError
        If ``wrong`` is empty, or the batch has no such mark.

    References
    ----------
    Merullo, Eickhoff and Pavlick (2024), Circuit Component Reuse Across Tasks in Transformer Language Models, arXiv:2310.08744.
    """

    model: Model
    batch: ContrastBatch
    wrong: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.wrong:
            raise BadParameterError("'wrong' is empty, so there is no option to move attention to.", "Name at least one mark.")
        for mark in self.wrong:
            self.batch.mark(mark)

    @cached_property
    def row(self) -> Float[Tensor, "pair key"]:
        """The attention of edited heads from the answer position to each key."""
        weights = torch.zeros(self.batch.clean.shape)
        for mark in self.wrong:
            weights[torch.arange(self.batch.n_pairs), self.batch.mark(mark)] += 1 / len(self.wrong)
        return weights

    def edits(self, heads: Sequence[Head], pairs: Sequence[int] | None = None) -> tuple[Edit, ...]:
        """The edits of these heads, for the given pairs (all by default)."""
        rows = list(range(self.batch.n_pairs) if pairs is None else pairs)
        end = self.batch.end[rows]
        weights = self.row[rows][:, : int(end.max()) + 1]
        return tuple(Edit(Site.PATTERN, head.layer, weights, head=head.head, positions=end) for head in heads)

    def predictions(self, sets: Sequence[Sequence[Head]]) -> Int[np.ndarray, "set pair"]:
        """The most probable next token with each set of heads edited; an empty set is the unedited model."""
        tokens = np.empty((len(sets), self.batch.n_pairs), dtype=np.int64)
        for pairs in _chunks(self.batch.n_pairs, _PAIRS_AT_ONCE):
            chunk = self.batch.select(pairs)
            start = int(chunk.end.min())
            if unedited := [i for i, heads in enumerate(sets) if not heads]:
                tokens[np.ix_(unedited, pairs)] = self.model.logits(chunk.clean, chunk.end).argmax(-1).cpu().numpy()
            edited = [i for i, heads in enumerate(sets) if heads]
            for numbers in _chunks(len(edited), _SETS_AT_ONCE):
                indices = [edited[i] for i in numbers]
                edit_sets = [EditSet(self.edits(sets[i], pairs), start) for i in indices]
                tokens[np.ix_(indices, pairs)] = self.model.sweep(chunk.clean, chunk.end, edit_sets).argmax(-1).cpu().numpy()
            step(pairs[-1] + 1, self.batch.n_pairs)
        return tokens

    def right(self, predictions: np.ndarray) -> np.ndarray:
        """Whether each prediction is an answer, in the shape of ``predictions``, which ends in (pair,)."""
        answers = self.batch.answers.numpy()
        return np.asarray((predictions[..., None] == answers).any(-1))

    def conditions(self, sets: Mapping[str, Sequence[Head]], n_random: int, seed: int = 0) -> list[dict[str, Any]]:
        """Accuracy without an edit, with each set of heads edited, and with random sets of as many heads.

        Parameters
        ----------
        sets : mapping of str to sequence of Head
            Heads to edit, by name of the condition; an empty set gives a row without accuracy.
        n_random : int
            Random sets for each condition. They are drawn from the same layers, or the nearest ones where these have too few other heads.
        seed : int
            Seed of the random sets.

        Returns
        -------
        list of dict
            ``{"name", "heads", "accuracy", "new_mistakes", "repaired", "p_change", "errors", "random"}``; the first is the unedited model.
            ``accuracy`` has a 95 % Wilson interval. ``new_mistakes`` and ``repaired`` count pairs that the edit turns wrong and right.
            ``p_change`` is from McNemar's exact test against the unedited model. ``errors`` counts wrong predictions by kind. ``random``:
            mean and range of the random sets' accuracy, and p, the share at least as accurate, ``(r + 1) / (n + 1)``.
        """
        conditions = {"no edit": (), **{name: tuple(heads) for name, heads in sets.items() if heads}}
        shape = (self.model.spec.n_layers, self.model.spec.n_heads)
        draws = {
            name: random_heads(heads, shape, n_random, np.random.default_rng(seed + i))
            for i, (name, heads) in enumerate(conditions.items())
            if heads
        }
        tokens = self.predictions([*conditions.values(), *(heads for drawn in draws.values() for heads in drawn)])
        right = self.right(tokens)
        rows, first = [], len(conditions)
        for i, (name, heads) in enumerate(conditions.items()):
            of_random = right[first : first + len(draws.get(name, ()))]
            first += len(of_random)
            rows.append(self._row(name, heads, tokens[i], right[[0, i]], of_random))
        return rows + [{"name": name, "heads": [], "accuracy": None, "reason": "no head qualifies"} for name, h in sets.items() if not h]

    def _row(self, name: str, heads: Sequence[Head], tokens: np.ndarray, right: np.ndarray, of_random: np.ndarray) -> dict[str, Any]:
        from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

        before, after = right
        new_mistakes, repaired = int((before & ~after).sum()), int((~before & after).sum())
        accuracies = of_random.mean(1) if len(of_random) else np.empty(0)
        return {
            "name": name,
            "heads": [str(head) for head in heads],
            "accuracy": proportion_interval(int(after.sum()), len(after)).as_dict(),
            "new_mistakes": new_mistakes,
            "repaired": repaired,
            "p_change": float(stats.binomtest(repaired, new_mistakes + repaired).pvalue) if new_mistakes + repaired else 1.0,
            "errors": self._errors(tokens[~after], np.flatnonzero(~after)),
            "random": None
            if not len(accuracies)
            else {
                "n": len(accuracies),
                "mean": float(accuracies.mean()),
                "low": float(accuracies.min()),
                "high": float(accuracies.max()),
                "p": p_value(float(after.mean()), accuracies),
            },
        }

    def _errors(self, tokens: np.ndarray, pairs: np.ndarray) -> dict[str, int]:
        """Count wrong predictions by kind: another option, an option or answer of other pairs, or anything else."""
        options = np.concatenate([self.batch.foils.numpy(), self.batch.distractors.numpy()], axis=1)
        of_any_pair = {int(token) for token in (*options.ravel(), *self.batch.answers.numpy().ravel()) if token >= 0}
        counts = {"another option": 0, "an option of other prompts": 0, "anything else": 0}
        for token, pair in zip(tokens.tolist(), pairs.tolist(), strict=True):
            kind = "another option" if token in options[pair] else "an option of other prompts" if token in of_any_pair else "anything else"
            counts[kind] += 1
        return counts


@dataclass(frozen=True, eq=False)
class _EditedModel:
    """A model whose logits and captures are an edited runner's; weights and shapes are the unedited model's."""

    model: Model
    runner: Runner

    @property
    def decoder(self) -> Any:
        """Raises: the edits hold a value for each row, and only this runner's own forward passes apply them."""
        what = f"The attention edits of {self.model.spec.name} are not part of its functional decoder."
        raise ModelError(what, "Use logits and capture.")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner if name in {"logits", "capture"} else self.model, name)


def shift_of(
    repair: Repair, heads: Sequence[Head], movers: Sequence[Head], answer: str, importance: np.ndarray | None = None
) -> dict[str, Any]:
    """What the edit changes downstream: the movers' attention and direct contribution, and the direct contribution of all heads.

    Parameters
    ----------
    repair : Repair
    heads : sequence of Head
        Edited heads.
    movers : sequence of Head
        Heads whose attention and contribution are measured; edited ones are left out.
    answer : str
        Mark of the right option.
    importance : ndarray, shape (layer, head), optional
        Each head's path-patching effect in the other task.

    Returns
    -------
    dict
        ``movers``: the heads measured. ``attention_right`` and ``attention_wrong`` (summed over wrong options), means over movers, and
        ``attribution``, the movers' summed direct contribution to answers minus foils, in logits: each with ``before``, ``after`` and
        ``change`` as 95 % intervals over pairs. ``spearman``: rank correlation of each downstream head's change of direct contribution
        with its importance, with its p-value.
    """
    from circuitlab.methods.logit_attribution import LogitAttribution  # noqa: PLC0415
    from circuitlab.metrics import LogitDiff  # noqa: PLC0415

    measured = [head for head in movers if head not in set(heads)]
    marks, direct = (answer, *repair.wrong), LogitAttribution()
    attention = [_attention(repair, edited, marks) for edited in ((), heads)]
    contributions = [direct(repair.model, repair.batch, LogitDiff()).values("heads")]
    # One pair at a time: the edits hold a value for each row of a run, and methods choose their own rows.
    singles = [(_edited(repair, heads, [pair]), repair.batch.select([pair])) for pair in range(repair.batch.n_pairs)]
    contributions.append(np.concatenate([direct(model, pair, LogitDiff()).values("heads") for model, pair in singles]))
    layers, numbers = [head.layer for head in measured], [head.head for head in measured]
    shift: dict[str, Any] = {"movers": [str(head) for head in measured]}
    if measured:
        right = [by_mark[answer][:, layers, numbers].mean(1) for by_mark in attention]
        wrong = [np.sum([by_mark[mark] for mark in repair.wrong], axis=0)[:, layers, numbers].mean(1) for by_mark in attention]
        shift["attention_right"], shift["attention_wrong"] = _change(*right), _change(*wrong)
        shift["attribution"] = _change(*(values[:, layers, numbers].sum(1) for values in contributions))
    if importance is not None:
        shift["spearman"] = _agreement((contributions[1] - contributions[0]).mean(0), importance, heads)
    return shift


def _edited(repair: Repair, heads: Sequence[Head], pairs: Sequence[int]) -> Any:
    return _EditedModel(repair.model, repair.model.with_edits(repair.edits(heads, pairs)))


def _attention(repair: Repair, heads: Sequence[Head], marks: Sequence[str]) -> dict[str, np.ndarray]:
    """Attention to marks, by mark, shape (pair, layer, head). An edited runner runs exactly the pairs of its edits: one for each chunk."""
    chunks: dict[str, list[np.ndarray]] = {mark: [] for mark in marks}
    for pairs in _chunks(repair.batch.n_pairs, 4):
        chunk = repair.batch.select(pairs)
        for mark, value in attention_between(_edited(repair, heads, pairs) if heads else repair.model, chunk, marks).items():
            chunks[mark].append(value)
    return {mark: np.concatenate(parts) for mark, parts in chunks.items()}


def _change(before: np.ndarray, after: np.ndarray) -> dict[str, dict[str, float]]:
    named = {"before": before, "after": after, "change": after - before}
    return {name: mean_interval(values).as_dict() for name, values in named.items()}


def _agreement(change: np.ndarray, importance: np.ndarray, heads: Sequence[Head]) -> dict[str, float]:
    """Spearman correlation over the heads above the lowest edited layer, without edited heads; NaN for fewer than 3 or a constant."""
    from scipy import stats  # noqa: PLC0415

    downstream = np.zeros(change.shape, dtype=bool)
    downstream[min(head.layer for head in heads) + 1 :] = True
    for head in heads:
        downstream[head.layer, head.head] = False
    n_heads = int(downstream.sum())
    if n_heads < 3 or not np.ptp(change[downstream]) or not np.ptp(importance[downstream]):  # noqa: PLR2004 - a correlation
        return {"rho": float("nan"), "p": float("nan"), "heads": n_heads}
    correlation = stats.spearmanr(change[downstream], importance[downstream])
    return {"rho": float(correlation.statistic), "p": float(correlation.pvalue), "heads": n_heads}


def _chunks(n: int, size: int) -> Iterator[list[int]]:
    for first in range(0, n, size):
        yield list(range(first, min(first + size, n)))
