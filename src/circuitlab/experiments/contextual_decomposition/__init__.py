"""Contextual decomposition: whether it finds the heads that matter, and circuits that are more faithful than random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np

from circuitlab.experiments.ranking import ALPHA, judge_ranking, ready_tasks
from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["ContextualDecompositionExperiment"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Several = Annotated[int, msgspec.Meta(ge=2)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]

_TASKS = ("ioi", "greater_than")
_OWN = "activation patching"
_LISTS = ("ioi_gpt2_small_cdt", "greater_than_gpt2_small_cdt")
_HIGH, _RECOVERED, _SMALL = 0.9, 0.8, 0.05


class ContextualDecompositionExperiment(Experiment, frozen=True, forbid_unknown_fields=True):
    """Rank heads by contextual decomposition, and run the circuits of its first heads (CD-T, Hsu et al. 2024).

    Every activation is split into a part that is due to one head and the rest, by fixed rules; the head's score is the metric of its part
    of the logits. The ranking is compared with planted circuits, with the model's own most important heads by exact patching, and with the
    published circuits where the model is GPT-2 small. Then circuits of its first heads are run on prompts that ranked nothing, beside
    random circuits of as many heads; all MLPs are kept.

    Parameters
    ----------
    pairs : int
        Pairs that are decomposed, for each task; as many others choose the model's own heads, and as many others run circuits.
    share : float
        Share of all heads that count as the model's own, by exact patching.
    sizes : tuple of float
        Shares of all heads that circuits keep.
    random_circuits : int
        Random circuits of each size.
    seeds : int
        Sets of prompts of each planted model.

    Notes
    -----
    Heads outside a circuit have their output on the paired corrupt prompt. Faithfulness is the share of the gap between the clean and the
    corrupt prompt that a circuit recovers. Its interval is a bootstrap over pairs. The time that the paper reports is not measured: it
    would not repeat.

    References
    ----------
    Hsu et al. (2024), Efficient Automated Circuit Discovery in Transformers using Contextual Decomposition, arXiv:2407.00886.
    """

    name: ClassVar[str] = "contextual_decomposition"
    title: ClassVar[str] = "Contextual decomposition"
    question: ClassVar[str] = "Does contextual decomposition find the heads that matter, and faithful circuits?"
    cite: ClassVar[tuple[str, ...]] = ("hsu2024",)
    cost: ClassVar[str] = "3 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="It ranks the heads of a circuit first.",
            published="GPT-2 small and a model of four layers, three tasks: area under the ROC curve 97 % on average.",
            rule="On every task that the model can do, the area against its own heads by activation patching is above that of 95 % of "
            "shuffled rankings, over all heads and within layers; in part if over all heads only, or on some task.",
        ),
        Claim(
            claim="It finds circuits that are known.",
            published="Area 97 % on average over three tasks.",
            rule=f"The mean area over planted models is at least {_HIGH}; in part if it is above one half (95 % over models).",
        ),
        Claim(
            claim="Its circuits are more faithful than random circuits of the same size.",
            published="With probability above 0.8, up to 60 % of the model for two tasks and 80 % for another.",
            rule="At every size up to half of the heads and on every task, the circuit is more faithful than 95 % of random circuits; in "
            "part if at more than half of them.",
        ),
        Claim(
            claim="A small circuit does most of the task.",
            published="Greater-than: 5.5 % of the heads have 93 % of the model's metric.",
            rule=f"On every task the circuit of {_SMALL:.0%} of the heads recovers at least {_RECOVERED} of the gap; in part on some task.",
        ),
        Claim(
            claim="It agrees with the published circuits of GPT-2 small.",
            published="Area 97 % on average over three tasks.",
            rule=f"On GPT-2 small the area against the lists of the paper is at least {_HIGH}; in part if it is above that of 95 % of "
            "shuffled rankings. Cannot be asked of another model.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "The default rule of the method differs from the paper's, whose products miss heads that act through queries and keys.",
        "Heads are ranked by their effect on the logits once; the paper goes on from the heads found to those before them, and prunes.",
        "Heads outside a circuit take their values from a corrupt prompt; the paper takes means over such prompts.",
        "The third task of the paper needs a model that was trained on code without MLPs.",
    )

    pairs: Several = 8
    share: Share = 0.05
    sizes: tuple[Share, ...] = (0.02, 0.05, 0.1, 0.2, 0.5)
    random_circuits: Count = 20
    seeds: Several = 3

    def gate(self, context: ExperimentContext) -> Gate:
        """Whether the model can do one of the tasks."""
        return ready_tasks(context, _TASKS, 3 * self.pairs)

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Planted models, then every task that the model can do."""
        from circuitlab.experiments.contextual_decomposition.rankings import Parts, on_planted, on_task  # noqa: PLC0415 - torch
        from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415

        ready = [task for task, is_ready in self.gate(context).measured["ready"].items() if is_ready]
        with context.share(0.0, 0.1):
            planted = context.stored("planted", lambda: on_planted(self.seeds, self.pairs))
        tasks = {}
        for number, task in enumerate(ready):
            batch = prepare_batch(context.model, task, 3 * self.pairs, seed=context.seed)
            thirds = (batch.select(range(start, start + self.pairs)) for start in range(0, 3 * self.pairs, self.pairs))
            compute = partial(on_task, context, Parts(*thirds), self.share, (self.sizes, self.random_circuits), task)
            with context.share(0.1 + 0.9 * number / len(ready), 0.1 + 0.9 * (number + 1) / len(ready)):
                tasks[task] = context.stored(f"decomposition {task}", compute)
        return {"planted": planted, "tasks": tasks}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By areas under the ROC curve, and by faithfulness beside random circuits."""
        tasks = results["tasks"]
        lists = {f"{task}, {name}": about["against"][name] for task, about in tasks.items() for name in _LISTS if name in about["against"]}
        return (
            judge_ranking(self.published[0], {task: about["against"][_OWN] for task, about in tasks.items()}),
            _planted(self.published[1], results["planted"]),
            _beats_random(self.published[2], tasks),
            _recovers(self.published[3], tasks),
            _as_published(self.published[4], lists),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Areas on planted models, and for each task faithfulness over size and the map of scores."""
        from circuitlab.figures import Series, Wording, category_bars, line_series, value_map  # noqa: PLC0415 - plotly

        words = Wording("Does the decomposition find planted circuits?", subtitle, y="area under the ROC curve")
        shown = category_bars({"contextual decomposition": results["planted"]}, words, references={"random": 0.5})
        drawings = [Picture("planted", shown, "Models whose circuit is known. Bars: 95 % over sets of prompts.")]
        for task, about in results["tasks"].items():
            rows, sizes = about["faithfulness"], [row["share"] for row in about["faithfulness"]]
            lines = {
                "first heads": Series.of(sizes, [row["circuit"] for row in rows]),
                "random heads": Series.of(sizes, [row["random"] for row in rows], control=True),
            }
            words = Wording(f"How faithful are its circuits? {task}", subtitle, x="share of the heads", y="faithfulness")
            figure = line_series(lines, words, references={"whole model": 1.0}, logarithmic=True)
            caption = "Bands: 95 % over pairs for the circuit; the middle 95 % of random circuits."
            drawings.append(Picture(f"faithfulness-{task}", figure, caption))
            words = Wording(f"What is due to each head? {task}", subtitle, units="units of the task's metric")
            drawings.append(Picture(f"map-{task}", value_map(about["map"], words), "Blue heads help the answer, orange ones hinder it."))
        return drawings


def _planted(claim: Claim, by_model: Mapping[str, Mapping[str, float]]) -> Claim:
    from circuitlab.scores.intervals import mean_interval  # noqa: PLC0415

    over = mean_interval(np.array([area["mean"] for area in by_model.values()]), within=(0, 1))
    here = f"area {interval_words(over)} over {len(by_model)} planted models"
    return judged(claim, here, holds=float(over.mean) >= _HIGH, partly=float(over.low) > 0.5)  # noqa: PLR2004 - chance


def _beats_random(claim: Claim, tasks: Mapping[str, Mapping[str, Any]]) -> Claim:
    better = [row["random"]["p"] <= ALPHA for about in tasks.values() for row in about["faithfulness"]]
    here = "; ".join(
        f"{task}: "
        + ", ".join(
            f"{row['heads']} heads {interval_words(row['circuit'])}, random {row['random']['mean']:.2f} (p = {row['random']['p']:.2g})"
            for row in about["faithfulness"]
        )
        for task, about in tasks.items()
    )
    return judged(claim, here, holds=all(better), partly=2 * sum(better) > len(better))


def _recovers(claim: Claim, tasks: Mapping[str, Mapping[str, Any]]) -> Claim:
    rows = {task: next((row for row in about["faithfulness"] if row["share"] == _SMALL), None) for task, about in tasks.items()}
    known = {task: row for task, row in rows.items() if row is not None}
    if not known:
        return msgspec.structs.replace(claim, here=f"no circuit of {_SMALL:.0%} of the heads was run")
    enough = [row["circuit"]["mean"] >= _RECOVERED for row in known.values()]
    here = "; ".join(f"{task}: {row['heads']} heads {interval_words(row['circuit'])}" for task, row in known.items())
    return judged(claim, here, holds=all(enough), partly=any(enough))


def _as_published(claim: Claim, lists: Mapping[str, Mapping[str, Any]]) -> Claim:
    if not lists:
        return msgspec.structs.replace(claim, here="this model is not GPT-2 small")
    here = "; ".join(f"{name}: {one['auroc']:.2f} (p = {one['p']:.2g})" for name, one in lists.items())
    least = min(one["auroc"] for one in lists.values())
    return judged(claim, here, holds=least >= _HIGH, partly=all(one["p"] < ALPHA for one in lists.values()))
