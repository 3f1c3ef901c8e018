"""Tuning a few heads: offsets at heads chosen by learnt scalings, and activations of few-shot prompts mixed into zero-shot ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from circuitlab.experiments.types import Claim, Drawing, Experiment, ExperimentContext, Gate, interval_words, judged
from circuitlab.scores.intervals import Interval, mean_interval

__all__ = ["HeadTuning"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Several = Annotated[int, msgspec.Meta(ge=2)]

_FEWEST_HELD = 12
_MEASURES = {"right": "accuracy", "log_probability": "log-probability"}
_LABELS = {
    "zero_shot": "unedited",
    "few_shot": "demonstrations in the prompt",
    "offsets": "offsets at chosen heads",
    "offsets_random": "offsets at random heads",
    "injected": "injected few-shot means",
    "injected_blank": "injected zero-shot means",
}


class HeadTuning(Experiment, frozen=True, forbid_unknown_fields=True):
    """Learn small changes of heads on a few questions, and answer other questions of the same kind (Yin et al. 2024; Park et al. 2025).

    A task is a table of questions and one-token answers (`circuitlab.methods.roles.in_context`); a zero-shot prompt is ``Q: France`` and
    ``A:`` on a new line, which does not say what is asked. Some pairs train, the others measure; no answer is shared unless the table
    repeats it. *LoFiT*: a factor for each component of each head's output ``z`` is trained at all positions, under a small L1 penalty on
    its distance from 1; the heads whose factors moved furthest (L2) are chosen, the factors are thrown away, and an offset is trained
    at each chosen head. The same number of offsets is trained at random heads of the same layers. *Soft Injection*: the mean ``z`` of every
    head at the last token of few-shot prompts is mixed into the last token of zero-shot prompts, with one trained gate for each head.
    Its control trains the same gates on means over zero-shot prompts, which hold no demonstration.

    Parameters
    ----------
    task : str
        One of `circuitlab.methods.roles.in_context.TASKS`.
    train : int
        Questions that train; all others measure.
    shots : int
        Demonstrations in a few-shot prompt, drawn from the questions that train.
    heads : int
        Heads that get an offset.
    steps : int
        Steps of Adam in every training, on batches of 8 prompts; the learning rates are the papers' (0.005 for factors, 0.008 for offsets,
        0.2 for gates).
    random_heads : int
        Random sets of heads that are tuned likewise.

    Notes
    -----
    Intervals are Student's over held-out questions, differences are paired. An answer is right if its token is the first choice over the
    whole vocabulary (accuracy); its log-probability stands beside it.

    References
    ----------
    Yin, Ye and Durrett (2024), LoFiT: Localized Fine-tuning on LLM Representations, arXiv:2406.01563. Park et al. (2025), Soft Injection
    of Task Embeddings Outperforms Prompt-Based In-Context Learning, arXiv:2507.20906.
    """

    name: ClassVar[str] = "head_tuning"
    title: ClassVar[str] = "Tuning a few heads"
    question: ClassVar[str] = (
        "Do offsets at a few chosen heads, or injected means of heads, teach a model to answer without demonstrations?"
    )
    cite: ClassVar[tuple[str, ...]] = ("yin2024lofit", "park2025soft")
    cost: ClassVar[str] = "5 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Offsets at a few heads, chosen by learnt scalings, improve a task (LoFiT).",
            published="Gemma and Llama 2 on TruthfulQA, MQuAKE and CLUTRR, with about 3 % of the heads.",
            rule="Accuracy on held-out questions rises by more than 0 (95 %); in part if only the right answer's log-probability does.",
        ),
        Claim(
            claim="They improve it more than offsets at random heads (LoFiT).",
            published="The same models and tasks: the choice matters, against heads chosen for another task and random heads.",
            rule="Held-out accuracy is above the mean over the random sets by more than 0 (95 %, paired), and above that of each set; in "
            "part if this holds of the right answer's log-probability only.",
        ),
        Claim(
            claim="Means of heads over few-shot prompts, mixed in with learnt gates, improve zero-shot answers (Soft Injection).",
            published="12 models on 57 tasks.",
            rule="Held-out accuracy rises by more than 0 (95 %) over zero-shot, and is above that with means of zero-shot prompts by more "
            "than 0 (95 %); in part if only the first holds, or both hold of the log-probability only.",
        ),
        Claim(
            claim="The injected zero-shot prompts are answered better than few-shot prompts (Soft Injection).",
            published="12 models on 57 tasks: 10.2 to 14.3 points more than with 10 demonstrations.",
            rule="Held-out accuracy is above that of few-shot prompts by more than 0 (95 %); in part if only the log-probability is.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "One small task with a few dozen questions and few steps; Soft Injection takes 400 epochs on each of 57 tasks, means over 50 "
        "prompts, and stops early by validation prompts.",
        "Adam moves every factor whose gradient outweighs the penalty at about the same pace, so that the chosen heads need not be those "
        "that matter most; the random heads show what the choice is worth.",
        "LoFiT's tasks (TruthfulQA, MQuAKE, CLUTRR) are beyond a small model; its comparisons with LoRA, ITI and RepE are not repeated.",
        "What is learnt may be the form of the answer as much as the relation: held-out answers were never trained, so that an offset "
        "cannot name them, but it can say that a city is asked for.",
    )

    task: str = "capitals"
    train: Several = 16
    shots: Several = 10
    heads: Count = 16
    steps: Count = 40
    random_heads: Count = 2

    def gate(self, context: ExperimentContext) -> Gate:
        """Whether demonstrations make the model answer held-out questions better than without, and enough questions are left."""
        from circuitlab.experiments.head_tuning.prompts import tuning_task  # noqa: PLC0415 - torch

        task = tuning_task(context.model, self.task, (self.train, self.shots), context.rng("prompts"))
        rows = len(task.held.answers)
        if rows < _FEWEST_HELD:
            return Gate(met=False, reason=f"{rows} questions of {self.task} are left to measure, of {_FEWEST_HELD} needed.")
        shown, zero = task.shown_held.measured(context.model)[0], task.held.measured(context.model)[0]
        accuracy, gain = mean_interval(shown), mean_interval(shown - zero)
        reason = (
            f"With {self.shots} demonstrations it answers {interval_words(accuracy)} of {rows} held-out questions of {self.task}, "
            f"{interval_words(gain)} more than without."
        )
        measured = {"rows": rows, "few_shot": accuracy.as_dict(), "gain": gain.as_dict()}
        return Gate(met=bool(gain.low > 0), reason=reason, measured=measured)

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Train on some questions, and measure everything on the others."""
        from circuitlab.experiments.head_tuning.injection import inject  # noqa: PLC0415 - torch
        from circuitlab.experiments.head_tuning.offsets import choose_heads, tune_offsets  # noqa: PLC0415
        from circuitlab.experiments.head_tuning.prompts import tuning_task  # noqa: PLC0415

        task = tuning_task(context.model, self.task, (self.train, self.shots), context.rng("prompts"))
        with context.share(0.0, 0.3):
            chosen = context.stored("heads", lambda: choose_heads(context, task, self.heads, self.steps))
        with context.share(0.3, 0.7):
            tuned = context.stored("offsets", lambda: tune_offsets(context, task, chosen["heads"], self.steps, self.random_heads))
        with context.share(0.7, 1.0):
            injected = context.stored("injection", lambda: inject(context, task, self.steps))
        rows = {"train": list(task.train.names), "held": list(task.held.names)}
        return {"rows": rows, "heads": chosen, "offsets": tuned, "injection": injected}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By paired differences on held-out questions."""
        first, second, third, fourth = self.published
        on_random = {key: _against(results, "offsets", "offsets_random", key) for key in _MEASURES}
        beats = {key: _above(interval) and _beats_each(results, key) for key, interval in on_random.items()}
        gains = {name: {key: _against(results, name, "zero_shot", key) for key in _MEASURES} for name in ("offsets", "injected")}
        control = {key: _against(results, "injected", "injected_blank", key) for key in _MEASURES}
        few = {key: _against(results, "injected", "few_shot", key) for key in _MEASURES}
        up = {key: _above(gains["injected"][key]) for key in _MEASURES}
        both = {key: up[key] and _above(control[key]) for key in _MEASURES}
        sets = len(results["offsets"]["random_heads"])
        return (
            _judged(first, f"{_mean(results, 'zero_shot')} to {_mean(results, 'offsets')}", gains["offsets"]),
            judged(
                second,
                f"{_mean(results, 'offsets')} against {_mean(results, 'offsets_random')} at {sets} random sets: {_words(on_random)}",
                holds=beats["right"],
                partly=beats["log_probability"],
            ),
            judged(
                third,
                f"{_mean(results, 'zero_shot')} to {_mean(results, 'injected')}: {_words(gains['injected'])}; over means of zero-shot "
                f"prompts: {_words(control)}",
                holds=both["right"],
                partly=up["right"] or both["log_probability"],
            ),
            _judged(fourth, f"{_mean(results, 'injected')} against {_mean(results, 'few_shot')}", few),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Drawing]:
        """Accuracy by what was done, and both maps of heads."""
        from circuitlab.figures import Wording, category_bars, value_map  # noqa: PLC0415 - plotly

        drawings = []
        titles = {"right": "How often is the held-out answer right?", "log_probability": "How probable is the held-out answer?"}
        axes = {"right": "share of right first tokens", "log_probability": "log-probability of the answer (nats)"}
        for key, title in titles.items():
            bars = {label: mean_interval(_rows(results, name, key)).as_dict() for name, label in _LABELS.items()}
            shown = category_bars({"": bars}, Wording(title, subtitle, y=axes[key]))
            caption = "Only the second bar has demonstrations in its prompts. Arms: 95 % over held-out questions."
            drawings.append(Drawing(_MEASURES[key], shown, caption))
        words = Wording("Which heads' scalings move?", subtitle, units="norm of factors minus 1")
        chosen = value_map(results["heads"]["map"], words, outlined=results["heads"]["heads"])
        drawings.append(Drawing("scalings", chosen, "The outlined heads moved furthest, and were given an offset."))
        words = Wording("Which heads take the few-shot mean?", subtitle, units="gate, 0 to 1 (0.5 before training)")
        gates = value_map(results["injection"]["gates"], words)
        drawings.append(Drawing("gates", gates, "Share of the few-shot mean in each head's output at the last token, after training."))
        return drawings


def _rows(results: Mapping[str, Any], name: str, key: str) -> np.ndarray:
    """One value for each held-out question; for random heads, the mean over the sets."""
    step = results["offsets"] if name in results["offsets"] else results["injection"]
    values = np.asarray(step[name][key], dtype=float)
    return values.mean(0) if values.ndim > 1 else values


def _against(results: Mapping[str, Any], name: str, other: str, key: str) -> Interval:
    return mean_interval(_rows(results, name, key) - _rows(results, other, key))


def _above(interval: Interval) -> bool:
    return bool(interval.low > 0)


def _beats_each(results: Mapping[str, Any], key: str) -> bool:
    """Whether the chosen heads do better than every random set."""
    best = np.asarray(results["offsets"]["offsets_random"][key], dtype=float).mean(1).max()
    return bool(_rows(results, "offsets", key).mean() > best)


def _mean(results: Mapping[str, Any], name: str) -> str:
    return f"{_rows(results, name, 'right').mean():.2f} ({_LABELS[name]})"


def _words(differences: Mapping[str, Interval]) -> str:
    return ", ".join(f"{_MEASURES[key]} {interval_words(interval)}" for key, interval in differences.items())


def _judged(claim: Claim, opening: str, differences: Mapping[str, Interval]) -> Claim:
    here = f"{opening}: difference in {_words(differences)}"
    return judged(claim, here, holds=_above(differences["right"]), partly=_above(differences["log_probability"]))
