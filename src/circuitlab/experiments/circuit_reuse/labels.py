"""Role labels of attention heads, assigned by fixed thresholds on scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from circuitlab.core.nodes import parse_node
from circuitlab.methods.logit_attribution import LogitAttribution
from circuitlab.methods.roles.attention import attention_between, copy_scores
from circuitlab.metrics import LogitDiff

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["RoleThresholds", "TaskMarks", "head_roles", "role_scores"]

ROLES = ("mover", "negative mover", "inhibition", "content gatherer", "induction", "duplicate token", "previous token")


class RoleThresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Smallest scores at which a head gets a label; chosen before anything was run.

    Parameters
    ----------
    attention : float
        Attention from the answer position to the mark that defines a role, mean over pairs.
    repeat : float
        Attention on repeated random tokens, for previous-token, duplicate-token and induction heads.
    copy : float
        Share of pairs in which a mover copies what it attends to, or a negative mover suppresses it.
    """

    attention: float = 0.1
    repeat: float = 0.3
    copy: float = 0.5


@dataclass(frozen=True)
class TaskMarks:
    """Marks of a task that define roles.

    Parameters
    ----------
    answer : str
        The answer where it stands in the prompt.
    options : tuple of str
        The wrong options.
    repeated : str
        The second occurrence of the repeated word; empty if the task has none.
    queried : str
        The word that the prompt asks about; empty if the task has none.
    """

    answer: str
    options: tuple[str, ...] = ()
    repeated: str = ""
    queried: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        """Every mark, without repeats."""
        return tuple(dict.fromkeys(mark for mark in (self.answer, *self.options, self.repeated, self.queried) if mark))


def role_scores(model: Model, batch: ContrastBatch, marks: TaskMarks) -> dict[str, np.ndarray]:
    """The scores that labels are assigned by.

    Parameters
    ----------
    model : Model
    batch : ContrastBatch
        Only clean prompts are run.
    marks : TaskMarks

    Returns
    -------
    dict of str to ndarray, shape (layer, head)
        ``dla``, ``dla_low``, ``dla_high``: direct contribution to the logits of answers minus foils, with its 95 % interval over pairs.
        ``to <mark>``: attention from the answer position, mean over pairs. ``follows``: Pearson correlation over pairs of attention to the
        answer with direct contribution. ``copy``, ``negative``: see `copy_scores`.
    """
    direct = LogitAttribution()(model, batch, LogitDiff())
    values, interval = direct.values("heads"), direct.interval("heads")
    attention = attention_between(model, batch, marks.all)
    copies = copy_scores(model, batch, marks.answer, batch.answers[:, 0])
    return {
        "dla": np.asarray(interval.mean),
        "dla_low": np.asarray(interval.low),
        "dla_high": np.asarray(interval.high),
        **{f"to {mark}": value.mean(0) for mark, value in attention.items()},
        "follows": _correlation(attention[marks.answer], values),
        **copies,
    }


def head_roles(
    stages: Sequence[dict[str, Any]],
    scores: dict[str, np.ndarray],
    repeats: dict[str, np.ndarray],
    marks: TaskMarks,
    limits: RoleThresholds,
) -> dict[str, list[str]]:
    """Labels of the heads that staged path patching kept; a head can have several labels, or none.

    Parameters
    ----------
    stages : sequence of dict
        From `discovery_data`: logits, then queries, then values, then keys.
    scores, repeats : dict of str to ndarray, shape (layer, head)
        From `role_scores` and `repeat_scores`.
    marks : TaskMarks
    limits : RoleThresholds
        Smallest scores for each label.

    Returns
    -------
    dict of str to list of str
        Heads by role. *mover*: kept for the logits, direct contribution above 0, attends to the answer and copies it. *negative mover*:
        kept for the logits, direct contribution below 0, attends to the answer or a wrong option and suppresses it. *inhibition*: kept for
        the movers' queries, attends to the repeated word. *content gatherer*: kept for the queries, attends to the queried word.
        *induction*, *duplicate token*, *previous token*: kept in a later stage, by attention on repeated random tokens.
    """
    kept = [[(parse_node(name).layer, parse_node(name).head) for name in stage["kept"]] for stage in stages]  # type: ignore[union-attr]
    later_heads = sorted({place for stage in kept[1:] for place in stage})
    options = [scores[f"to {mark}"] for mark in dict.fromkeys((marks.answer, *marks.options))]
    qualifies = {
        "mover": (scores["dla_low"] > 0) & (scores[f"to {marks.answer}"] >= limits.attention) & (scores["copy"] >= limits.copy),
        "negative mover": (scores["dla_high"] < 0) & (np.max(options, axis=0) >= limits.attention) & (scores["negative"] >= limits.copy),
        "inhibition": scores[f"to {marks.repeated}"] >= limits.attention if marks.repeated else None,
        "content gatherer": scores[f"to {marks.queried}"] >= limits.attention if marks.queried else None,
        "induction": repeats["induction"] >= limits.repeat,
        "duplicate token": repeats["duplicate"] >= limits.repeat,
        "previous token": repeats["previous"] >= limits.repeat,
    }
    candidates = {"mover": kept[:1], "negative mover": kept[:1], "inhibition": kept[1:2], "content gatherer": kept[1:2]}
    labels = {}
    for role in ROLES:
        mask, places = qualifies[role], sorted({place for stage in candidates.get(role, [later_heads]) for place in stage})
        labels[role] = [] if mask is None else [f"a{layer}.h{head}" for layer, head in places if mask[layer, head]]
    return labels


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation over pairs, shape (layer, head); 0 where either is constant."""
    x, y = first - first.mean(0), second - second.mean(0)
    scale = np.sqrt((x**2).sum(0) * (y**2).sum(0))
    return np.divide((x * y).sum(0), scale, out=np.zeros(scale.shape), where=scale > 0)
