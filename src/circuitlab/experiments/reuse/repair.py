"""The attention-edit repair: chosen heads look at the wrong options, and the answers are counted again."""

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
from circuitlab.methods.roles.attention import attention_between
from circuitlab.model.sites import Edit, EditSet, Site
from circuitlab.scores.intervals import mean_interval, proportion_interval

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Decoder
    from circuitlab.model.protocol import Model
    from circuitlab.model.runner import Runner

__all__ = ["Repair", "shift_of"]

_AT_ONCE = 32
"""Sets of heads that share one unedited run; the logits of all of them are held."""
_PAIRS = 16


@dataclass(frozen=True, eq=False)
class Repair:
    """Runs the clean prompts with the attention of chosen heads moved at the answer position.

    Each chosen head's row of the attention pattern at the answer position is set to equal weights on the wrong options and 0 elsewhere,
    after the softmax. Nothing else is edited. A prediction is right if the most probable token of the whole vocabulary is the answer.

    Parameters
    ----------
    model, batch
        What is run; only clean prompts are.
    wrong : tuple of str
        Marks of the options that are not the answer.

    Raises
    ------
    BadParameterError
        If no wrong option is marked.

    References
    ----------
    Merullo, Eickhoff and Pavlick (2024), Circuit Component Reuse Across Tasks in Transformer Language Models, arXiv:2310.08744.
    """

    model: Model
    batch: ContrastBatch
    wrong: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.wrong:
            raise BadParameterError("No wrong option is marked, so that attention cannot be moved to one.", "Name at least one mark.")
        for mark in self.wrong:
            self.batch.mark(mark)

    @cached_property
    def row(self) -> Float[Tensor, "pair key"]:
        """The row of attention that edited heads get."""
        out = torch.zeros(self.batch.clean.shape)
        for mark in self.wrong:
            out[torch.arange(self.batch.n_pairs), self.batch.mark(mark)] += 1 / len(self.wrong)
        return out

    def edits(self, heads: Sequence[Head], pairs: Sequence[int] | None = None) -> tuple[Edit, ...]:
        """The edits of these heads, for all pairs or some."""
        rows = list(range(self.batch.n_pairs) if pairs is None else pairs)
        end, value = self.batch.end[rows], self.row[rows]
        value = value[:, : int(end.max()) + 1]
        return tuple(Edit(Site.PATTERN, head.layer, value, head=head.head, positions=end) for head in heads)

    def predictions(self, sets: Sequence[Sequence[Head]]) -> Int[np.ndarray, "set pair"]:
        """The most probable next token under each set of edited heads; an empty set leaves the model as it is."""
        out = np.empty((len(sets), self.batch.n_pairs), dtype=np.int64)
        for pairs in _chunks(self.batch.n_pairs, _PAIRS):
            few = self.batch.select(pairs)
            start = int(few.end.min())
            if plain := [i for i, heads in enumerate(sets) if not heads]:
                out[np.ix_(plain, pairs)] = self.model.logits(few.clean, few.end).argmax(-1).cpu().numpy()
            edited = [i for i, heads in enumerate(sets) if heads]
            for some in _chunks(len(edited), _AT_ONCE):
                asked = [edited[i] for i in some]
                edit_sets = [EditSet(self.edits(sets[i], pairs), start) for i in asked]
                out[np.ix_(asked, pairs)] = self.model.sweep(few.clean, few.end, edit_sets).argmax(-1).cpu().numpy()
            step(pairs[-1] + 1, self.batch.n_pairs)
        return out

    def right(self, predictions: np.ndarray) -> np.ndarray:
        """Whether each prediction is an answer, in the shape given."""
        answers = self.batch.answers.numpy()
        return np.asarray((predictions[..., None] == answers).any(-1))

    def conditions(self, sets: Mapping[str, Sequence[Head]], n_random: int, seed: int = 0) -> list[dict[str, Any]]:
        """Accuracy without an edit, with each set of heads edited, and with random heads of the same number.

        Returns
        -------
        list of dict
            ``{"name", "heads", "accuracy", "new_mistakes", "repaired", "p_change", "errors", "random"}``; the first is the unedited model.
            ``accuracy`` has a Wilson interval; ``p_change`` is McNemar's exact test against the unedited model; ``errors`` counts what
            wrong predictions are. ``random``: as many heads, as often as asked, drawn from the heads of the same layers where these have
            enough others, else from all: mean, range, and the share of draws at least as accurate, ``(r + 1) / (n + 1)``.
        """
        named = {"no edit": (), **{name: tuple(heads) for name, heads in sets.items() if heads}}
        draws = {name: self._random(heads, n_random, seed + i) for i, (name, heads) in enumerate(named.items()) if heads}
        every = [*named.values(), *(one for some in draws.values() for one in some)]
        guessed = self.predictions(every)
        right = self.right(guessed)
        rows, place = [], len(named)
        for i, (name, heads) in enumerate(named.items()):
            mine = right[place : place + len(draws.get(name, ()))]
            place += len(mine)
            rows.append(self._row(name, heads, guessed[i], right[[0, i]], mine))
        return rows + [{"name": name, "heads": [], "accuracy": None, "reason": "no head qualifies"} for name, h in sets.items() if not h]

    def _row(self, name: str, heads: Sequence[Head], guessed: np.ndarray, right: np.ndarray, random: np.ndarray) -> dict[str, Any]:
        from scipy import stats  # noqa: PLC0415 - scipy.stats is slow to import

        before, after = right
        broken, mended = int((before & ~after).sum()), int((~before & after).sum())
        shares = random.mean(1) if len(random) else np.empty(0)
        return {
            "name": name,
            "heads": [str(head) for head in heads],
            "accuracy": proportion_interval(int(after.sum()), len(after)).as_dict(),
            "new_mistakes": broken,
            "repaired": mended,
            "p_change": float(stats.binomtest(mended, broken + mended).pvalue) if broken + mended else 1.0,
            "errors": self._errors(guessed[~after], np.flatnonzero(~after)),
            "random": None
            if not len(shares)
            else {
                "n": len(shares),
                "mean": float(shares.mean()),
                "low": float(shares.min()),
                "high": float(shares.max()),
                "p": p_value(float(after.mean()), shares),
            },
        }

    def _errors(self, tokens: np.ndarray, pairs: np.ndarray) -> dict[str, int]:
        """What wrong predictions are: another option, some other pair's option, or anything else."""
        options = np.concatenate([self.batch.foils.numpy(), self.batch.distractors.numpy()], axis=1)
        known = {int(token) for token in (*options.ravel(), *self.batch.answers.numpy().ravel()) if token >= 0}
        counts = {"another option": 0, "an option of other prompts": 0, "anything else": 0}
        for token, pair in zip(tokens.tolist(), pairs.tolist(), strict=True):
            kind = "another option" if token in options[pair] else "an option of other prompts" if token in known else "anything else"
            counts[kind] += 1
        return counts

    def _random(self, heads: Sequence[Head], n: int, seed: int) -> list[tuple[Head, ...]]:
        """Random heads, none of the chosen ones: layer by layer where a layer has enough others, from all layers otherwise."""
        rng = np.random.default_rng(seed)
        every = [Head(layer, head) for layer in range(self.model.spec.n_layers) for head in range(self.model.spec.n_heads)]
        others = [head for head in every if head not in set(heads)]
        if len(others) < len(heads):
            what = f"{len(heads)} of {len(every)} heads leave too few for a random control."
            raise BadParameterError(what, "Choose fewer heads.")
        layers = [head.layer for head in heads]
        by_layer = {layer: [head for head in others if head.layer == layer] for layer in set(layers)}
        matched = all(len(found) >= layers.count(layer) for layer, found in by_layer.items())
        drawn = []
        for _ in range(n):
            pools = [(found, layers.count(layer)) for layer, found in sorted(by_layer.items())] if matched else [(others, len(heads))]
            drawn.append(tuple(pool[i] for pool, count in pools for i in rng.choice(len(pool), count, replace=False).tolist()))
        return drawn


@dataclass(frozen=True, eq=False)
class _EditedModel:
    """An edited runner with what direct attribution asks of a model; weights and shapes are the model's."""

    model: Model
    runner: Runner

    @property
    def decoder(self) -> Decoder:
        """None: edits that hold a value for each row exist in this runner's own passes only."""
        what = f"The edits of this run of {self.model.spec.name} are not part of its functional forward."
        raise ModelError(what, "Read it with logits and capture.")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner if name in {"logits", "capture"} else self.model, name)


def shift_of(
    repair: Repair, heads: Sequence[Head], movers: Sequence[Head], answer: str, importance: np.ndarray | None = None
) -> dict[str, Any]:
    """What the edit does downstream: attention of movers to right and wrong options, their direct contribution, and all heads' changes.

    Parameters
    ----------
    repair : Repair
    heads : sequence of Head
        Edited heads.
    movers : sequence of Head
        Heads that are looked at; edited ones are left out.
    answer : str
        Mark of the right option.
    importance : ndarray, shape (layer, head), optional
        Each head's path-patching effect in the other task.

    Returns
    -------
    dict
        ``attention_right``, ``attention_wrong`` (summed over wrong options, mean over movers) and ``attribution`` (summed over movers,
        answers minus foils), each with ``before``, ``after`` and ``change`` as intervals over pairs; ``spearman`` of each downstream head's
        change of attribution with its importance, with its p-value.
    """
    from circuitlab.methods.logit_attribution import LogitAttribution  # noqa: PLC0415
    from circuitlab.metrics import LogitDiff  # noqa: PLC0415

    looked = [head for head in movers if head not in set(heads)]
    marks, direct = (answer, *repair.wrong), LogitAttribution()
    attention = [_attention(repair, some, marks) for some in ((), heads)]
    shares = [direct(repair.model, repair.batch, LogitDiff()).values("heads")]
    # One pair at a time: the edits hold a value for each row of a run, and methods choose their own rows.
    alone = [(_edited(repair, heads, [pair]), repair.batch.select([pair])) for pair in range(repair.batch.n_pairs)]
    shares.append(np.concatenate([direct(model, few, LogitDiff()).values("heads") for model, few in alone]))
    rows, columns = [head.layer for head in looked], [head.head for head in looked]
    found: dict[str, Any] = {"movers": [str(head) for head in looked]}
    if looked:
        right = [one[answer][:, rows, columns].mean(1) for one in attention]
        wrong = [np.sum([one[mark] for mark in repair.wrong], axis=0)[:, rows, columns].mean(1) for one in attention]
        found["attention_right"], found["attention_wrong"] = _change(*right), _change(*wrong)
        found["attribution"] = _change(*(one[:, rows, columns].sum(1) for one in shares))
    if importance is not None:
        found["spearman"] = _agreement((shares[1] - shares[0]).mean(0), importance, heads)
    return found


def _edited(repair: Repair, heads: Sequence[Head], pairs: Sequence[int]) -> Any:
    return _EditedModel(repair.model, repair.model.with_edits(repair.edits(heads, pairs)))


def _attention(repair: Repair, heads: Sequence[Head], marks: Sequence[str]) -> dict[str, np.ndarray]:
    """Attention to marks, chunk by chunk: an edited runner takes all pairs of its edits at once, so that each chunk has its own."""
    found: dict[str, list[np.ndarray]] = {mark: [] for mark in marks}
    for pairs in _chunks(repair.batch.n_pairs, 4):
        few = repair.batch.select(pairs)
        for mark, value in attention_between(_edited(repair, heads, pairs) if heads else repair.model, few, marks).items():
            found[mark].append(value)
    return {mark: np.concatenate(parts) for mark, parts in found.items()}


def _change(before: np.ndarray, after: np.ndarray) -> dict[str, dict[str, float]]:
    named = {"before": before, "after": after, "change": after - before}
    return {name: mean_interval(values).as_dict() for name, values in named.items()}


def _agreement(change: np.ndarray, importance: np.ndarray, heads: Sequence[Head]) -> dict[str, float]:
    """Spearman correlation over heads in layers above the first edited one, edited heads left out."""
    from scipy import stats  # noqa: PLC0415

    use = np.zeros(change.shape, dtype=bool)
    use[min(head.layer for head in heads) + 1 :] = True
    for head in heads:
        use[head.layer, head.head] = False
    if use.sum() < 3 or not np.ptp(change[use]) or not np.ptp(importance[use]):  # noqa: PLR2004 - a correlation
        return {"rho": float("nan"), "p": float("nan"), "heads": int(use.sum())}
    found = stats.spearmanr(change[use], importance[use])
    return {"rho": float(found.statistic), "p": float(found.pvalue), "heads": int(use.sum())}


def _chunks(n: int, size: int) -> Iterator[list[int]]:
    for first in range(0, n, size):
        yield list(range(first, min(first + size, n)))
