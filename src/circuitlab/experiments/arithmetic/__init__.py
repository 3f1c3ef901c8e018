"""Arithmetic: which heads write the result of a sum, what they attend to, and whether other operations need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
import numpy as np

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged
from circuitlab.scores.intervals import mean_interval

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch

__all__ = ["Arithmetic"]

Several = Annotated[int, msgspec.Meta(ge=2)]

_TASK = "addition"
_OTHERS = ("subtraction", "multiplication", "arithmetic")
_MARKS = ("A", "A+1", "B")
_MARK_NAMES = {"A": "first operand", "A+1": "operator", "B": "second operand", "together": "together"}
_MATTERS, _FEW, _ALPHA = 0.01, 0.05, 0.05
_PASSAGE, _PASSAGES, _LITTLE = 64, 8, 0.05
"""Tokens of a passage, passages, and nats per token that count as no loss."""


class Arithmetic(Experiment, frozen=True, forbid_unknown_fields=True):
    """Find the heads of one-digit sums by path patching, knock them out, and see whether other operations need them (Zhang et al. 2024).

    Every head's direct path to the logits is patched with its output on the same sum with another operand, on half of the sums that the
    model gets right. On the other half, the heads with the largest effects are replaced by their mean output, more and more of them, beside
    random heads of the same layers; and the attention of the key heads from the last token is measured. Then the same heads are knocked out
    in other operations. Last, the key heads alone are tuned on sums: a factor for every component of their queries and outputs, that is, of
    columns of their query weights and rows of their output weights; and random heads of the same layers, and all heads. Sums with operands
    that were not trained, right or wrong before, and passages of other text measure.

    Parameters
    ----------
    pairs : int
        Sums that choose the heads; as many others are measured.
    key_heads : int
        Heads with the largest effects that count as key heads.
    counts : tuple of int
        Numbers of heads that are knocked out; ``key_heads`` is added.
    random_sets : int
        Random sets of heads of each number.
    tuning_steps : int
        Steps of Adam in every tuning, on batches of 8 sums.
    tuned_sets : int
        Random sets of heads that are tuned.

    References
    ----------
    Zhang et al. (2024), Interpreting and Improving Large Language Models in Arithmetic Calculation, arXiv:2409.01659.
    """

    name: ClassVar[str] = "arithmetic"
    title: ClassVar[str] = "Arithmetic"
    question: ClassVar[str] = "Do a few heads write the result of a sum, and do other operations use the same ones?"
    cite: ClassVar[tuple[str, ...]] = ("zhang2024arithmetic",)
    cost: ClassVar[str] = "6 minutes"
    version: ClassVar[int] = 2
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Few heads matter.",
            published="LLaMA2-7B: less than 5 % of the heads have an effect of more than 1 %.",
            rule=f"Less than {_FEW:.0%} of the heads have a mean effect beyond {_MATTERS:.0%} of the clean logit difference.",
        ),
        Claim(
            claim="They are in the middle and late layers.",
            published="LLaMA2-7B: effects of early heads are nearly 0.",
            rule="No key head is in the first third of the layers; in part if less than a third of them is.",
        ),
        Claim(
            claim="Without them sums go wrong, and without as many random heads they do not.",
            published="LLaMA2-7B: accuracy falls sharply by rank of effect, and stays within about 2 % in random order.",
            rule="On sums that chose nothing, accuracy without the key heads changes by less than 0 (95 %), and by more than without every "
            "random set; in part if only the first holds.",
        ),
        Claim(
            claim="They attend to the operands and the operator.",
            published="LLaMA2-7B: the key heads attend from the last token to numbers and operators.",
            rule="Their attention to these three tokens is above that of the other heads of their layers (95 % over sums).",
        ),
        Claim(
            claim="Subtraction needs the heads of addition.",
            published="Without them subtraction falls by 52 %.",
            rule="The same as for sums, on subtraction. Cannot be asked where the model cannot subtract.",
        ),
        Claim(
            claim="Operations and formats share their key heads.",
            published="LLaMA2-7B: key heads overlap across formats, data sets and operations.",
            rule="With every other task that the model can do, they share more key heads than by chance with as many heads in each layer "
            "(p < 0.05); in part with one of them.",
        ),
        Claim(
            claim="Tuning the key heads alone improves sums, and more than tuning random heads.",
            published="LLaMA2-7B: 32 of 1024 heads are tuned. Mistral-7B, in the same laboratory's next paper: from 68.7 to 83.7 points on "
            "classification, 75.7 with random heads.",
            rule="On sums with operands that were not trained, the result's log-probability rises by more than 0, and by more than the "
            "mean with random heads of the same layers (95 %, paired); in part if only the first holds.",
        ),
        Claim(
            claim="Other abilities suffer less than when everything is tuned.",
            published="LLaMA2-7B: other abilities keep. Mistral-7B: MMLU falls by 21.3 points when everything is tuned.",
            rule="The loss on passages rises by less than with all heads tuned (95 %, paired), and by less than 0.05 nats per token; in "
            "part if only the first holds.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "Tuning moves factors of each head's queries and outputs, not every weight; keys and values, which heads share in groups, and MLPs "
        "stay. Everything means all heads.",
        "The paper destroys the arithmetic in its counterfactual prompts; here the second operand changes.",
        "Effects are shares of the logit difference between the result and the other result; the paper's are of the logit of the result.",
        "One-digit results only, because most current tokenizers split numbers into digits.",
    )

    pairs: Several = 16
    key_heads: Several = 8
    counts: tuple[Annotated[int, msgspec.Meta(ge=1)], ...] = (1, 2, 4, 8, 16)
    random_sets: Several = 5
    tuning_steps: Several = 24
    tuned_sets: Annotated[int, msgspec.Meta(ge=1)] = 2

    def gate(self, context: ExperimentContext) -> Gate:
        """Whether the model can add, and gets enough different sums right."""
        from circuitlab.workflows.fitness import check_task  # noqa: PLC0415 - torch

        reports = [check_task(context.model, task, 64, seed=context.seed, least=2 * self.pairs) for task in (_TASK, *_OTHERS)]
        ready, reasons = {report.task: report.ready for report in reports}, [report.reason for report in reports]
        for task in [task for task, is_ready in ready.items() if is_ready]:
            if self._solved(context, task) is None:
                ready[task] = False
                reasons.append(f"Fewer than {2 * self.pairs} of {4 * self.pairs} pairs of {task} are right: too few to choose and measure.")
        measured = {"ready": ready, "accuracy": {report.task: report.accuracy for report in reports}}
        return Gate(met=ready[_TASK], reason=" ".join(reasons), measured=measured)

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Find heads, knock them out, read their attention, repeat the first two in other tasks, and tune the heads."""
        from circuitlab.experiments.arithmetic.heads import attention_to, knocked_out, ranked_heads, shared_heads  # noqa: PLC0415 - torch

        shape, counts = (context.model.spec.n_layers, context.model.spec.n_heads), sorted({*self.counts, self.key_heads})
        halves = self._halves(context, _TASK)
        with context.share(0.0, 0.2):
            ranked = context.stored("heads", lambda: ranked_heads(context, halves[0]))
        order = _heads(ranked["order"])
        key = order[: self.key_heads]
        with context.share(0.2, 0.4):
            out = context.stored("knockout", lambda: knocked_out(context, halves, order, counts, self.random_sets))
        attention = context.stored("attention", lambda: attention_to(context.model, halves[1], key, _MARKS))
        gate = context.stored("gate", lambda: msgspec.to_builtins(self.gate(context)))
        ready = [task for task, is_ready in gate["measured"]["ready"].items() if is_ready and task != _TASK]
        transfer: dict[str, Any] = {}
        for number, task in enumerate(ready):
            with context.share(0.4 + 0.3 * number / len(ready), 0.4 + 0.3 * (number + 1) / len(ready)):
                transfer[task] = context.stored(f"transfer {task}", lambda task=task: self._transfer(context, task, key))  # type: ignore[misc]
            transfer[task]["overlap"] = shared_heads(key, _heads(transfer[task]["order"])[: self.key_heads], shape)
        names = [str(head) for head in key]
        with context.share(0.7, 1.0):
            tuned = context.stored("tuning", lambda: self._tuning(context, key), about=names)
        return {"heads": {**ranked, "key": names}, "knockout": out, "attention": attention, "transfer": transfer, "tuning": tuned}

    def _tuning(self, context: ExperimentContext, key: Sequence[Any]) -> dict[str, Any]:
        """Sums of new prompts train; half of them, with other operands, measure."""
        from circuitlab.execute.continuations import Continuation  # noqa: PLC0415 - torch
        from circuitlab.execute.text_rows import text_rows  # noqa: PLC0415
        from circuitlab.experiments.arithmetic.tuning import sums, tune_heads, unseen  # noqa: PLC0415
        from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415

        drawn = prepare_batch(context.model, _TASK, 4 * self.pairs, seed=context.seed + 1)
        half = drawn.n_pairs // 2
        train, held = drawn.select(range(half)), drawn.select(range(half, drawn.n_pairs))
        questions = sums(unseen(train, held, ("A", "B"))), sums(held)
        rows = [row for row in text_rows(context.model, None, _PASSAGE) if len(row) == _PASSAGE][:_PASSAGES]
        texts = [Continuation.passage(row) for row in rows]
        return tune_heads(context, questions, key, texts, (self.tuning_steps, self.tuned_sets))

    def _solved(self, context: ExperimentContext, task: str) -> ContrastBatch | None:
        from circuitlab.experiments.arithmetic.heads import solved  # noqa: PLC0415 - torch
        from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415

        return solved(context.model, prepare_batch(context.model, task, 4 * self.pairs, seed=context.seed), 2 * self.pairs)

    def _halves(self, context: ExperimentContext, task: str) -> tuple[ContrastBatch, ContrastBatch]:
        from circuitlab.core.errors import BadParameterError  # noqa: PLC0415

        batch = self._solved(context, task)
        if batch is None:
            what = f"{context.model.spec.name} gets too few pairs of {task} right, which its gate would have said."
            raise BadParameterError(what, "Ask the gate first (`circuitlab experiment run`).")
        return batch.select(range(self.pairs)), batch.select(range(self.pairs, 2 * self.pairs))

    def _transfer(self, context: ExperimentContext, task: str, key: Sequence[Any]) -> dict[str, Any]:
        """The heads of another task, and what it loses without the key heads of sums."""
        from circuitlab.experiments.arithmetic.heads import knocked_out, ranked_heads  # noqa: PLC0415 - torch

        halves = self._halves(context, task)
        out = knocked_out(context, halves, key, [len(key)], self.random_sets)
        return {"order": ranked_heads(context, halves[0])["order"], "knockout": out}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By effects, paired changes of accuracy, attention and overlap."""
        few, late, needs, attends, subtracts, shares, improves, keeps = self.published
        effects, key = np.array(results["heads"]["map"]), _heads(results["heads"]["key"])
        share, early = float((np.abs(effects) > _MATTERS).mean()), sum(head.layer < len(effects) / 3 for head in key)
        difference, together = results["attention"]["difference"], results["attention"]["chosen"]["together"]
        said = f"{interval_words(together)} together, {interval_words(difference)} more than other heads of their layers"
        transfer = results["transfer"]
        return (
            judged(few, f"{share:.1%} of {effects.size} heads", holds=share < _FEW),
            judged(late, f"{early} of {len(key)} key heads in the first third", holds=early == 0, partly=early < len(key) / 3),
            _worse(needs, results["knockout"], len(key)),
            judged(attends, said, holds=difference["low"] is not None and difference["low"] > 0),
            _worse(subtracts, transfer["subtraction"]["knockout"], len(key))
            if "subtraction" in transfer
            else msgspec.structs.replace(subtracts, here="the model cannot subtract"),
            _overlaps(shares, {task: about["overlap"] for task, about in transfer.items()}),
            *_tunes((improves, keeps), results["tuning"]),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """The map of effects, the knock-out curve, attention, and what tuning changes."""
        from circuitlab.figures import Series, Wording, category_bars, line_series, value_map  # noqa: PLC0415 - plotly

        words = Wording("Which heads write the result of a sum?", subtitle, units="share of the logit difference")
        shown = value_map(results["heads"]["map"], words, outlined=results["heads"]["key"])
        drawings = [Picture("heads", shown, "Effect of each head's direct path to the logits; the key heads are outlined.")]
        for name, axis in (("accuracy", "change of accuracy"), ("logit_difference", "change of the logit difference")):
            measured, counts = results["knockout"][name], results["knockout"]["counts"]
            random = [{"mean": float(np.mean(row)), "low": min(row), "high": max(row)} for row in measured["random"]]
            lines = {
                "by effect": Series.of(counts, measured["change"]),
                "random, same layers": Series.of(counts, random, control=True),
            }
            words = Wording("What do sums lose without these heads?", subtitle, x="heads with their mean output", y=axis)
            caption = "On sums that chose nothing. Bands: 95 % over sums; for random heads the range of all sets."
            drawings.append(Picture(f"knockout-{name}", line_series(lines, words, references={"unedited": 0.0}), caption))
        groups = {
            name: {_MARK_NAMES.get(mark, mark): value for mark, value in results["attention"][part].items()}
            for part, name in (("chosen", "key heads"), ("others", "other heads of their layers"))
        }
        words = Wording("What do the key heads attend to?", subtitle, y="attention from the last token")
        shown = category_bars(groups, words, controls=("other heads of their layers",))
        drawings.append(Picture("attention", shown, "Mean over heads. Bars: 95 % over sums."))
        return [*drawings, *_tuning_bars(results["tuning"], subtitle)]


def _heads(names: Sequence[str]) -> list[Any]:
    from circuitlab.core.nodes import parse_node  # noqa: PLC0415

    return [parse_node(name) for name in names]


def _worse(claim: Claim, out: Mapping[str, Any], count: int) -> Claim:
    at = out["counts"].index(count)
    change, random = out["accuracy"]["change"][at], out["accuracy"]["random"][at]
    logits, others = out["logit_difference"]["change"][at], out["logit_difference"]["random"][at]
    here = (
        f"without {count} heads accuracy changes by {interval_words(change)}, without random ones by {min(random):.2f} to "
        f"{max(random):.2f}; the logit difference by {interval_words(logits)}, random {min(others):.2f} to {max(others):.2f}"
    )
    falls = change["high"] is not None and change["high"] < 0
    return judged(claim, here, holds=falls and change["mean"] < min(random), partly=falls)


def _rise(tuning: Mapping[str, Any], name: str, key: str) -> np.ndarray:
    """By sum or passage, the change from the unedited model; of random sets their mean."""
    after = [one[key] for one in tuning[name]] if name == "random" else tuning[name][key]
    values = np.array(after, dtype=float) - np.array(tuning["unedited"][key], dtype=float)
    return np.asarray(values.mean(0) if values.ndim > 1 else values)


def _tunes(claims: tuple[Claim, Claim], tuning: Mapping[str, Any]) -> tuple[Claim, Claim]:
    name = "log_probability"
    rise, beyond = mean_interval(_rise(tuning, "key", name)), mean_interval(_rise(tuning, "key", name) - _rise(tuning, "random", name))
    right = {which: np.mean(tuning[which]["right"]) for which in ("unedited", "key", "everything")}
    everything = mean_interval(_rise(tuning, "everything", name))
    accuracy = f"{right['unedited']:.2f}, then {right['key']:.2f} (all heads: {right['everything']:.2f})"
    here = (
        f"the result's log-probability rises by {interval_words(rise)}, by {interval_words(beyond)} more than with random heads (all "
        f"heads: {interval_words(everything)}); accuracy {accuracy}"
    )
    loss, saved = (
        mean_interval(-_rise(tuning, "key", "text")),
        mean_interval(_rise(tuning, "key", "text") - _rise(tuning, "everything", "text")),
    )
    said = f"the loss rises by {interval_words(loss, 3)} nats per token, by {interval_words(saved, 3)} less than with all heads tuned"
    spares = bool(saved.low > 0)
    return (
        judged(claims[0], here, holds=bool(rise.low > 0 and beyond.low > 0), partly=bool(rise.low > 0)),
        judged(claims[1], said, holds=spares and bool(loss.mean < _LITTLE), partly=spares),
    )


def _tuning_bars(tuning: Mapping[str, Any], subtitle: str) -> list[Picture]:
    from circuitlab.figures import Wording, category_bars  # noqa: PLC0415 - plotly

    labels, drawings = {"key": "key heads", "random": "random heads, same layers", "everything": "all heads"}, []
    for key, title, axis in (
        ("log_probability", "What do sums gain from tuning?", "rise of the result's log-probability (nats)"),
        ("text", "What does other text gain from tuning on sums?", "rise of the log-probability (nats per token)"),
    ):
        bars = {label: mean_interval(_rise(tuning, name, key)).as_dict() for name, label in labels.items()}
        caption = f"{len(tuning['unedited'][key])} {'passages' if key == 'text' else 'sums'} that did not train. Arms: 95 %, paired."
        drawings.append(Picture(f"tuning-{key}", category_bars({"": bars}, Wording(title, subtitle, y=axis)), caption))
    return drawings


def _overlaps(claim: Claim, by_task: Mapping[str, Mapping[str, float]]) -> Claim:
    if not by_task:
        return msgspec.structs.replace(claim, here="the model can do none of the other tasks")
    here = "; ".join(
        f"{task}: {one['shared']} shared, Jaccard {one['jaccard']:.2f}, {one['by_chance']:.2f} by chance (p = {one['p']:.2g})"
        for task, one in by_task.items()
    )
    beyond = [one["p"] < _ALPHA for one in by_task.values()]
    return judged(claim, here, holds=all(beyond), partly=any(beyond))
