"""Tuning a few heads: offsets at heads chosen by learnt scalings, and activations of few-shot prompts mixed into zero-shot ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged
from circuitlab.scores.intervals import Interval, mean_interval, rate_change_interval, rate_interval

__all__ = ["HeadTuning"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Several = Annotated[int, msgspec.Meta(ge=2)]

_FEWEST_HELD = 12
_MEASURES = {"right": "accuracy", "log_probability": "log-probability"}
_KEY = "log_probability"
_LABELS = {
    "zero_shot": "unedited",
    "few_shot": "demonstrations in the prompt",
    "offsets": "offsets at chosen heads",
    "offsets_random": "offsets at random heads",
    "offsets_other": "offsets at heads of other tasks",
    "offsets_spread": "as many numbers over all heads",
    "injected": "injected few-shot means",
    "injected_blank": "injected zero-shot means",
}


class HeadTuning(Experiment, frozen=True, forbid_unknown_fields=True):
    """Learn small changes of heads on a few questions, and answer other questions of the same kind (Yin et al. 2024; Park et al. 2025).

    A task is a table of questions and one-token answers (`circuitlab.methods.roles.in_context`); a zero-shot prompt is ``Q: France`` and
    ``A:`` on a new line, which does not say what is asked. Some pairs train, the others measure; no answer is shared unless the table
    repeats it. *LoFiT*: a factor for each component of each head's output ``z`` is trained at all positions, under a small L1 penalty on
    its distance from 1; the heads whose factors moved furthest (L2) are chosen, the factors are thrown away, and an offset is trained
    at each chosen head. The same number of offsets is trained at random heads of the same layers, at heads that other tasks chose, and
    spread over the components of all heads. The other tasks are tuned likewise, and what was learnt on each is asked about all. *Soft
    Injection*: the mean ``z`` of every head at the last token of few-shot prompts is mixed into the last token of zero-shot prompts,
    with one trained gate for each head.
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
        Random sets of heads that are tuned likewise; one for each of the other tasks.
    others : tuple of str
        Other tasks, for transfer; those with too few questions are left out.

    Notes
    -----
    Intervals are over held-out questions, Wilson's of accuracies and Student's of log-probabilities; differences are paired. An answer
    is right if its token is the first choice over the whole vocabulary (accuracy); its log-probability stands beside it.

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
    cost: ClassVar[str] = "7 minutes"
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
        Claim(
            claim="Heads that another task chose serve worse (LoFiT).",
            published="Gemma and Llama 2: heads chosen for another of the three tasks lose accuracy.",
            rule="Held-out accuracy is above the mean over the other tasks' heads by more than 0 (95 %, paired); in part if this holds of "
            "the right answer's log-probability only.",
        ),
        Claim(
            claim="A few heads are worth more than as many numbers tuned everywhere (LoFiT).",
            published="About 3 % of the heads match LoRA with 20 to 200 times as many parameters.",
            rule="Held-out accuracy is above that with as many numbers spread over all heads by more than 0 (95 %, paired); in part if "
            "this holds of the log-probability only.",
        ),
        Claim(
            claim="What is learnt on a task helps that task more than another (LoFiT).",
            published="Each task chooses its own heads, and offsets are trained for each.",
            rule="Over the held-out questions of all tasks, accuracy after tuning on their own task is above that after tuning on the "
            "others by more than 0 (95 %, paired); in part if this holds of the log-probability only.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "One small task with a few dozen questions and few steps; Soft Injection takes 400 epochs on each of 57 tasks, means over 50 "
        "prompts, and stops early by validation prompts.",
        "Adam moves every factor whose gradient outweighs the penalty at about the same pace, so that the chosen heads need not be those "
        "that matter most; the random heads show what the choice is worth.",
        "Full tuning is represented by as many numbers spread over all heads' outputs; no weight is changed.",
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
    others: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("antonyms", "past_tense")

    def gate(self, context: ExperimentContext) -> Gate:
        """Whether demonstrations make the model answer held-out questions better than without, and enough questions are left."""
        from circuitlab.experiments.head_tuning.prompts import tuning_task  # noqa: PLC0415 - torch

        task = tuning_task(context.model, self.task, (self.train, self.shots), context.rng("prompts"))
        rows = len(task.held.answers)
        if rows < _FEWEST_HELD:
            return Gate(met=False, reason=f"{rows} questions of {self.task} are left to measure, of {_FEWEST_HELD} needed.")
        shown, zero = task.shown_held.measured(context.model)[0], task.held.measured(context.model)[0]
        accuracy, gain = rate_interval(shown), rate_change_interval(shown - zero)
        reason = (
            f"With {self.shots} demonstrations it answers {interval_words(accuracy)} of {rows} held-out questions of {self.task}, "
            f"{interval_words(gain)} more than without."
        )
        measured = {"rows": rows, "few_shot": accuracy.as_dict(), "gain": gain.as_dict()}
        return Gate(met=bool(gain.low > 0), reason=reason, measured=measured)

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Train on some questions, and measure everything on the others."""
        from circuitlab.experiments.head_tuning.injection import inject  # noqa: PLC0415 - torch
        from circuitlab.experiments.head_tuning.offsets import choose_heads, tune_elsewhere, tune_offsets  # noqa: PLC0415
        from circuitlab.experiments.head_tuning.prompts import tuning_task  # noqa: PLC0415

        sizes = (self.train, self.shots)
        task = tuning_task(context.model, self.task, sizes, context.rng("prompts"))
        made = {name: tuning_task(context.model, name, sizes, context.rng("prompts", name)) for name in self.others if name != self.task}
        others = {name: other for name, other in made.items() if len(other.held.answers) >= _FEWEST_HELD}
        held = {self.task: task.held, **{name: other.held for name, other in others.items()}}

        def tuned(name: str, about: Any, n_random: int, known: dict[str, Any] | None = None) -> dict[str, Any]:
            with context.share(0.0, 0.4):
                first = known or choose_heads(context, about, self.heads, self.steps)
            with context.share(0.4, 1.0):
                elsewhere = {other: questions for other, questions in held.items() if other != name}
                return {**first, **tune_offsets(context, about, first["heads"], self.steps, n_random, elsewhere)}

        with context.share(0.0, 0.1):
            chosen = context.stored("heads", lambda: choose_heads(context, task, self.heads, self.steps))
        with context.share(0.1, 0.3):
            offsets = context.stored("offsets", lambda: tuned(self.task, task, self.random_heads, chosen))
        with context.share(0.3, 0.45):
            injected = context.stored("injection", lambda: inject(context, task, self.steps))
        tasks = {}
        for number, (name, other) in enumerate(others.items()):
            with context.share(0.45 + 0.35 * number / len(others), 0.45 + 0.35 * (number + 1) / len(others)):
                tasks[name] = context.stored(f"task {name}", lambda name=name, other=other: tuned(name, other, 1))  # type: ignore[misc]
        sets = [tasks[name]["heads"] for name in others]
        with context.share(0.8, 1.0):
            more = context.stored("elsewhere", lambda: tune_elsewhere(context, task, sets, self.heads, self.steps), about=sets)
        rows = {"train": list(task.train.names), "held": list(task.held.names)}
        return {"task": self.task, "rows": rows, "heads": chosen, "offsets": {**offsets, **more}, "injection": injected, "tasks": tasks}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By paired differences on held-out questions."""
        first, second, third, fourth, fifth, sixth, seventh = self.published
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
            *_placed((fifth, sixth, seventh), results),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Accuracy by what was done, both maps of heads, and the gains by task that trained and task that is asked."""
        from circuitlab.figures import Wording, category_bars, value_map  # noqa: PLC0415 - plotly

        drawings = []
        titles = {"right": "How often is the held-out answer right?", "log_probability": "How probable is the held-out answer?"}
        axes = {"right": "share of right first tokens", "log_probability": "log-probability of the answer (nats)"}
        for key, title in titles.items():
            interval = rate_interval if key == "right" else mean_interval
            shown_rows = {
                label: _rows(results, name, key) for name, label in _LABELS.items() if name != "offsets_other" or results["tasks"]
            }
            bars = {label: interval(rows).as_dict() for label, rows in shown_rows.items()}
            shown = category_bars({"": bars}, Wording(title, subtitle, y=axes[key]))
            caption = "Only the second bar has demonstrations in its prompts. Arms: 95 % over held-out questions."
            drawings.append(Picture(_MEASURES[key], shown, caption))
        words = Wording("Which heads' scalings move?", subtitle, units="norm of factors minus 1")
        chosen = value_map(results["heads"]["map"], words, outlined=results["heads"]["heads"])
        drawings.append(Picture("scalings", chosen, "The outlined heads moved furthest, and were given an offset."))
        words = Wording("Which heads take the few-shot mean?", subtitle, units="gate, 0 to 1 (0.5 before training)")
        gates = value_map(results["injection"]["gates"], words)
        drawings.append(Picture("gates", gates, "Share of the few-shot mean in each head's output at the last token, after training."))
        return [*drawings, _transfer_grid(results, subtitle)]


def _cell(results: Mapping[str, Any], trained: str, asked: str, which: str, key: str) -> np.ndarray:
    """Held-out answers about one task after tuning on another, or the same; for random heads, the mean over the sets."""
    step = results["offsets"] if trained == results["task"] else results["tasks"][trained]
    values = np.asarray((step if trained == asked else step["elsewhere"][asked])[which][key], dtype=float)
    return np.asarray(values.mean(0) if values.ndim > 1 else values)


def _placed(claims: tuple[Claim, Claim, Claim], results: Mapping[str, Any]) -> tuple[Claim, ...]:
    """Verdicts on heads of other tasks, on numbers everywhere, and on transfer between tasks."""
    fifth, sixth, seventh = claims
    spread = {key: _against(results, "offsets", "offsets_spread", key) for key in _MEASURES}
    everywhere = _judged(sixth, f"{_mean(results, 'offsets')} against {_mean(results, 'offsets_spread')}", spread)
    if not results["tasks"]:
        why = "no other task has enough questions"
        return msgspec.structs.replace(fifth, here=why), everywhere, msgspec.structs.replace(seventh, here=why)
    other = {key: _against(results, "offsets", "offsets_other", key) for key in _MEASURES}
    names, beyond = [results["task"], *results["tasks"]], {}
    for key in _MEASURES:
        rows = []
        for asked in names:
            foreign = np.mean([_cell(results, trained, asked, "offsets", key) for trained in names if trained != asked], axis=0)
            rows.append(_cell(results, asked, asked, "offsets", key) - foreign)
        beyond[key] = _change(np.concatenate(rows), key)
    return (
        _judged(fifth, f"{_mean(results, 'offsets')} against {_mean(results, 'offsets_other')}", other),
        everywhere,
        _judged(seventh, f"own task against the other {len(names) - 1}, over {', '.join(names)}", beyond),
    )


def _transfer_grid(results: Mapping[str, Any], subtitle: str) -> Picture:
    from circuitlab.figures import Wording, value_grid  # noqa: PLC0415 - plotly

    names, rows, cells = [results["task"], *results["tasks"]], [], []
    for which, label in (("offsets", "{}"), ("offsets_random", "{}, random heads")):
        for trained in names:
            rows.append(label.format(trained).replace("_", " "))
            gains = [_cell(results, trained, asked, which, _KEY) - _cell(results, trained, asked, "zero_shot", _KEY) for asked in names]
            cells.append([round(float(gain.mean()), 3) for gain in gains])
    words = Wording("Does what is learnt on a task help another?", subtitle, x="asked about", y="tuned on", units="rise (nats)")
    grid = value_grid(cells, (rows, [name.replace("_", " ") for name in names]), words)
    return Picture("transfer", grid, "Rise of the right answer's log-probability on held-out questions, over the unedited model.")


def _rows(results: Mapping[str, Any], name: str, key: str) -> np.ndarray:
    """One value for each held-out question; for random heads, the mean over the sets."""
    step = results["offsets"] if name in results["offsets"] else results["injection"]
    values = np.asarray(step[name][key], dtype=float)
    return values.mean(0) if values.ndim > 1 else values


def _against(results: Mapping[str, Any], name: str, other: str, key: str) -> Interval:
    return _change(_rows(results, name, key) - _rows(results, other, key), key)


def _change(differences: np.ndarray, key: str) -> Interval:
    return rate_change_interval(differences) if key == "right" else mean_interval(differences)


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
