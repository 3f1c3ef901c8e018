"""Discrete codes: whether codes of a small autoencoder that only clean prompts have point at the heads of a circuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.ranking import ALPHA, judge_ranking, ready_tasks
from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["DiscreteCodes"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Several = Annotated[int, msgspec.Meta(ge=2)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]

_TASKS = ("ioi", "greater_than")
_PLANTED = ("copy-gqa", "distractor-gqa", "shared_group-gqa", "induction-gqa", "successor-gqa", "names-gqa", "blocker-gqa", "backup-gqa")
_OWN = ("activation patching", "path patching to the logits")
_LISTS = ("ioi_gpt2_small_oneill", "greater_than_gpt2_small_oneill")
_LEVELS = {"nodes": "codes of heads", "edges": "codes of pairs of heads"}
_PUBLISHED_AREA, _STABLE, _PARTLY_STABLE = 0.8, 0.7, 0.3


class DiscreteCodes(Experiment, frozen=True, forbid_unknown_fields=True):
    """Rank heads by their codes, and compare the ranking with heads that are known to matter (O'Neill and Bui 2024).

    A small sparse autoencoder is trained on what heads write, averaged over positions, on a few prompts; the code of a head on a prompt is
    its most active unit. A head scores the number of codes that it has on clean prompts and on no corrupt prompt. The ranking is compared
    with planted circuits, with the model's own most important heads by exact patching on other prompts, and with the published lists where
    the model is GPT-2 small.

    Parameters
    ----------
    pairs : int
        Pairs that codes are read from, for each task; the reference has as many others.
    examples : int
        Prompts that an autoencoder is trained on; 10 in the paper, which finds 5 to be enough.
    trials : int
        Autoencoders with other examples and initial weights; 10 in the paper.
    size, epochs : int
        Units, and steps of training.
    share : float
        Share of all heads that count as the model's own, by exact patching.

    Notes
    -----
    The area under the ROC curve is of the mean over autoencoders; its interval is over autoencoders. A ranking that only knows the layers
    has a high area, too, because important heads are in later layers: rankings are also shuffled within layers.

    References
    ----------
    O'Neill and Bui (2024), Sparse Autoencoders Enable Scalable and Reliable Circuit Identification in Language Models, arXiv:2405.12522.
    """

    name: ClassVar[str] = "discrete_codes"
    title: ClassVar[str] = "Discrete codes of heads"
    question: ClassVar[str] = "Do codes that only clean prompts have point at the heads of a circuit?"
    cite: ClassVar[tuple[str, ...]] = ("oneill2024",)
    cost: ClassVar[str] = "3 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Heads with many codes of clean prompts alone are those of the circuit.",
            published="GPT-2 small, indirect object identification: area under the ROC curve 0.854 over heads.",
            rule="On every task that the model can do, the area against its own heads by activation patching is above that of 95 % of "
            "shuffled rankings, over all heads and within layers; in part if this holds on some task, or over all heads only.",
        ),
        Claim(
            claim="Codes of pairs of heads rank heads as well.",
            published="The paper scores edges, too; its number was not found.",
            rule="The same for the ranking by pairs of heads.",
        ),
        Claim(
            claim="The method finds circuits of several tasks.",
            published="Three tasks: higher precision and recall than three other methods.",
            rule="On models with planted circuits the mean area is above one half (95 % over models); in part if only its estimate is.",
        ),
        Claim(
            claim="The ranking hardly depends on the autoencoder.",
            published="Ten autoencoders for each result, with small standard deviations; called reliable.",
            rule=f"The mean rank correlation of two autoencoders' scores is at least {_STABLE} on every task; in part if at least "
            f"{_PARTLY_STABLE}.",
        ),
        Claim(
            claim="The ranking agrees with the published circuits of GPT-2 small.",
            published="GPT-2 small, indirect object identification: area 0.854.",
            rule=f"On GPT-2 small the area against the list of the paper is at least {_PUBLISHED_AREA} for every task; in part if it is "
            "above 95 % of shuffled rankings. Cannot be asked of another model.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "The paper's pairs are not pairs: 250 prompts that can be solved and 250 that cannot. Here each clean prompt has a corrupt one "
        "that differs in a word, and there are fewer of them.",
        "The model's own heads are the top share by exact patching; where that share ends is a choice.",
        "Codes say what a head writes, not whether it is read; scores are not causal.",
    )

    pairs: Several = 12
    examples: Count = 5
    trials: Several = 3
    size: Count = 200
    epochs: Count = 500
    share: Share = 0.05

    def gate(self, context: ExperimentContext) -> Gate:
        """Whether the model can do one of the tasks."""
        return ready_tasks(context, _TASKS, 2 * self.pairs)

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Planted models, then every task that the model can do."""
        from circuitlab.experiments.discrete_codes.codes import Halves, on_planted, on_task  # noqa: PLC0415 - torch
        from circuitlab.methods import CodeOverlap  # noqa: PLC0415
        from circuitlab.model.prepare import prepare_batch  # noqa: PLC0415

        ready = [task for task, is_ready in self.gate(context).measured["ready"].items() if is_ready]
        method = CodeOverlap(examples=self.examples, trials=self.trials, size=self.size, epochs=self.epochs, seed=context.seed)
        with context.share(0.0, 0.1):
            planted = context.stored("planted", lambda: on_planted(_PLANTED, method, self.pairs))
        tasks = {}
        for number, task in enumerate(ready):
            batch = prepare_batch(context.model, task, 2 * self.pairs, seed=context.seed)
            halves = Halves(batch.select(range(self.pairs)), batch.select(range(self.pairs, 2 * self.pairs)))
            compute = partial(on_task, context, halves, method, self.share, task)
            with context.share(0.1 + 0.9 * number / len(ready), 0.1 + 0.9 * (number + 1) / len(ready)):
                tasks[task] = context.stored(f"codes {task}", compute)
        return {"planted": planted, "tasks": tasks}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By areas under the ROC curve, and by the agreement of autoencoders."""
        tasks = results["tasks"]
        own = {level: {task: about["against"][level][_OWN[0]] for task, about in tasks.items()} for level in _LEVELS}
        lists = {
            f"{task}, {name}": about["against"]["nodes"][name]
            for task, about in tasks.items()
            for name in _LISTS
            if name in about["against"]["nodes"]
        }
        planted, agreements = results["planted"]["nodes"]["all"], [about["agreement"] for about in tasks.values()]
        finds = judged(
            self.published[2],
            f"area {interval_words(planted)} over {len(results['planted']['nodes']['models'])} planted models",
            holds=planted["low"] is not None and planted["low"] > 0.5,  # noqa: PLR2004 - chance
            partly=planted["mean"] > 0.5,  # noqa: PLR2004
        )
        return (
            judge_ranking(self.published[0], own["nodes"]),
            judge_ranking(self.published[1], own["edges"]),
            finds,
            _stable(self.published[3], dict(zip(tasks, agreements, strict=True))),
            _as_published(self.published[4], lists),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Areas on planted models, areas on tasks, and the map of codes of each task."""
        from circuitlab.figures import Wording, category_bars, value_map  # noqa: PLC0415 - plotly

        planted = {named: results["planted"][level]["models"] for level, named in _LEVELS.items()}
        words = Wording("Do codes find planted heads?", subtitle, y="area under the ROC curve")
        caption = "Models whose circuit is known. Bars: 95 % over autoencoders; dashed: a random ranking."
        drawings = [Picture("planted", category_bars(planted, words, references={"random": 0.5}), caption)]
        groups: dict[str, dict[str, Any]] = {}
        for task, about in results["tasks"].items():
            for level, named in _LEVELS.items():
                for heads, ranked in about["against"][level].items():
                    groups.setdefault(named, {})[f"{task}: {heads}"] = ranked["trials"]
                    alone = {"mean": ranked["within"], "low": None, "high": None}
                    groups.setdefault("shuffled within layers", {}).setdefault(f"{task}: {heads}", alone)
        words = Wording("Do codes find the model's own heads?", subtitle, y="area under the ROC curve")
        shown = category_bars(groups, words, controls=("shuffled within layers",), references={"random": 0.5})
        caption = "Bars: 95 % over autoencoders. Grey: what the layers alone tell, node codes shuffled within each layer."
        drawings.append(Picture("tasks", shown, caption))
        for task, about in results["tasks"].items():
            words = Wording(f"Which heads have codes of clean prompts alone? {task}", subtitle, units="codes")
            drawings.append(Picture(f"map-{task}", value_map(about["map"], words), "Mean over autoencoders of the number of such codes."))
        return drawings


def _stable(claim: Claim, agreements: Mapping[str, float | None]) -> Claim:
    least = min(-1.0 if value is None else value for value in agreements.values())
    here = "; ".join(f"{task}: {'no score varies' if value is None else f'{value:.2f}'}" for task, value in agreements.items())
    return judged(claim, f"rank correlation {here}", holds=least >= _STABLE, partly=least >= _PARTLY_STABLE)


def _as_published(claim: Claim, lists: Mapping[str, Mapping[str, Any]]) -> Claim:
    if not lists:
        return msgspec.structs.replace(claim, here="this model is not GPT-2 small")
    here = "; ".join(f"{name}: {one['auroc']:.2f} (p = {one['p']:.2g})" for name, one in lists.items())
    least = min(one["auroc"] for one in lists.values())
    return judged(claim, here, holds=least >= _PUBLISHED_AREA, partly=all(one["p"] < ALPHA for one in lists.values()))
