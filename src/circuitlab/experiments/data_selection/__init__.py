"""Data selection by features: texts whose sparse features are like those of a task, and what they do for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

if TYPE_CHECKING:
    from circuitlab.experiments.data_selection.kinds import Split

__all__ = ["DataSelection"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Several = Annotated[int, msgspec.Meta(ge=2)]

_NAMES = {"features": "features, Jaccard", "dense": "activations, cosine", "tokens": "tokens, Jaccard", "random": "random"}


class DataSelection(Experiment, frozen=True, forbid_unknown_fields=True):
    """Select passages whose features are like those of a task, and see what they do for it (Ma et al. 2025, MONA).

    A small sparse autoencoder is trained on the stream that leaves the middle layer, at the tokens of natural text. A passage's vector is
    the mean over its tokens of the activations of each token's strongest units; a task's prototype is the mean over a few examples; their
    similarity is the generalised Jaccard index, ``sum(min) / sum(max)``. The baselines are the mean activations themselves with the
    cosine, overlap of tokens, and chance.

    The tasks are twelve groups of kinds of circuitlab's passages: code, verse, letters and so on. Each has a few examples, a few passages
    that are held out, and the rest among all passages that can be selected. The paper tunes a model on what is selected and tests it on the
    task. Here nothing is tuned: what is measured is whether the task's own passages come first, and the loss of its held-out passages
    when the selected ones stand before them in the prompt.

    Parameters
    ----------
    examples : int
        Passages that stand for a task, and as many held out.
    shown : int
        Selected passages in a prompt.
    random_draws : int
        Draws of as many random passages for each task.
    units, active, epochs : int
        Units of the autoencoder, those kept for each token, and its epochs.

    Notes
    -----
    Intervals are Student's over tasks, paired where ways of selecting are compared. The autoencoder is trained on the passages that can be
    selected alone. Each token's vector is brought to one length first, and the mean of all is subtracted.

    References
    ----------
    Ma et al. (2025), Task-Specific Data Selection for Instruction Tuning via Monosemantic Neuronal Activations, arXiv:2503.15573.
    """

    name: ClassVar[str] = "data_selection"
    title: ClassVar[str] = "Data selection by features"
    question: ClassVar[str] = "Do a model's sparse features find the texts that help a task?"
    cite: ClassVar[tuple[str, ...]] = ("ma2025",)
    cost: ClassVar[str] = "6 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Samples whose features are like a task's are samples of the task.",
            published="The paper's premise: similar features mark what the model processes alike.",
            rule="The average precision of a task's own passages in its ranking is above that of random rankings (95 % over tasks).",
        ),
        Claim(
            claim="What is selected helps the task more than random data.",
            published="Llama-3.1-8B tuned on 5 %: 55.75 on average, random 52.69, untuned 51.68.",
            rule="The loss of held-out passages is lower after selected passages than after random ones (95 %, paired over tasks), and "
            "than with every random draw; in part if only the first holds.",
        ),
        Claim(
            claim="Sparse features describe samples better than dense activations and than surface overlap.",
            published="Raw activations lead to spurious similarity; selection by features is above all other ways of selecting.",
            rule="The average precision by features is above that by mean activations and that by tokens (95 % each, paired over tasks); "
            "in part if above one of them.",
        ),
        Claim(
            claim="What features select helps the task more than what the other ways select.",
            published="Llama-3.1-8B tuned on 5 %: 55.75, LESS 54.70.",
            rule="The loss of held-out passages is lower after what features select than after what mean activations and what tokens "
            "select (95 % each, paired over tasks); in part if lower than after one of them.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "Selected passages stand in the prompt; the paper tunes the model on them. LESS, which needs gradients of tuning, is not compared.",
        "Tasks are kinds of text and not instructions, and passages are few. Other languages are one task, so that what is selected for it "
        "is mostly in another language than what is held out.",
        "The autoencoder is small, trained with an L1 penalty on a few thousand tokens, and cut to its strongest units of each token; the "
        "paper trains a TopK autoencoder on much more.",
    )

    examples: Several = 3
    shown: Count = 3
    random_draws: Several = 3
    units: Several = 512
    active: Count = 16
    epochs: Count = 300

    _LENGTH: ClassVar[int] = 48
    _TOKENS: ClassVar[int] = 6000

    def gate(self, context: ExperimentContext) -> Gate:
        """Examples of a task help one another, in the prompt, more than those of other tasks."""
        if context.model.tokenizer is None:
            return Gate(met=False, reason=f"{context.model.spec.name} has no tokenizer, and passages are text.")
        from circuitlab.experiments.data_selection.selection import context_gain  # noqa: PLC0415 - torch
        from circuitlab.scores.intervals import mean_interval  # noqa: PLC0415

        gain = mean_interval(context_gain(context.model, self._split(context))).as_dict()
        said = f"The loss of an example is {interval_words(gain)} nats lower after examples of its own task than after those of another."
        return Gate(met=gain["low"] > 0, reason=said, measured={"gain": gain})

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Train the autoencoder, rank passages, and read held-out passages after the selected ones."""
        from circuitlab.experiments.data_selection.steps import measured  # noqa: PLC0415 - torch

        return measured(context, self._split(context), self._TOKENS)

    def _split(self, context: ExperimentContext) -> Split:
        from circuitlab.experiments.data_selection.kinds import TASKS, passages, split  # noqa: PLC0415 - torch

        rows, labels, between = passages(context.model, self._LENGTH)
        return split(tuple(TASKS), rows, labels, context.rng("split"), self.examples, between)

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By average precision and by losses, paired over tasks."""
        precisions, loss = results["precision"], results["loss"]
        precision = ", ".join(f"{_NAMES[way]} {interval_words(precisions['mean'][way])}" for way in _NAMES)
        first = judged(self.published[0], f"average precision: {precision}", holds=_above(precisions["above"]["random"]))
        draws, mean = loss["random_draws"], loss["mean"]["features"]["mean"]
        here = (
            f"loss {interval_words(loss['mean']['features'])} nats after selected passages, {min(draws):.2f} to {max(draws):.2f} after "
            f"random ones, {loss['mean']['none']['mean']:.2f} after none; random minus selected "
            f"{interval_words(loss['below']['random'], 3)}"
        )
        above = _above(loss["below"]["random"])
        second = judged(self.published[1], here, holds=above and mean < min(draws), partly=above)
        third = _both(self.published[2], precisions["above"], "average precision by features, above that by")
        return first, second, third, _both(self.published[3], loss["below"], "nats lower after what features select than after")

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Average precision and gain by task, and by way of selecting."""
        from circuitlab.figures import Wording, category_bars, value_grid  # noqa: PLC0415 - plotly

        precisions, loss = results["precision"], results["loss"]
        tasks = list(precisions["tasks"])
        cells = [[precisions["tasks"][task][way] for way in _NAMES] for task in tasks]
        words = Wording("Which ranking finds a task's own passages?", subtitle, x="ranked by", y="task", units="average precision")
        grid = value_grid(cells, (tasks, list(_NAMES.values())), words, signed=False)
        drawn = [Picture("precision", grid, "Average precision of the passages of each task among all that can be selected.")]
        cells = [[loss["tasks"][task]["none"] - loss["tasks"][task][way] for way in _NAMES] for task in tasks]
        words = Wording(
            "How much does what is selected help?", subtitle, x="selected by", y="task", units="loss without context minus with, nats"
        )
        grid = value_grid(cells, (tasks, list(_NAMES.values())), words)
        drawn.append(Picture("gain", grid, "How much lower the loss of held-out passages is after the selected passages."))
        bars = {_NAMES[way]: loss["gain"][way] for way in _NAMES}
        words = Wording("How much does what is selected help on average?", subtitle, y="fall of the loss, nats per token")
        figure = category_bars({"selected by": bars}, words)
        return [*drawn, Picture("mean-gain", figure, "Loss of held-out passages without context minus with. Bars: 95 % over tasks.")]


def _above(interval: Mapping[str, Any]) -> bool:
    return interval["low"] is not None and interval["low"] > 0


def _both(claim: Claim, differences: Mapping[str, Mapping[str, Any]], words: str) -> Claim:
    each = [_above(differences[way]) for way in ("dense", "tokens")]
    said = ", ".join(f"{_NAMES[way]} {interval_words(differences[way], 3)}" for way in ("dense", "tokens"))
    return judged(claim, f"{words}: {said}", holds=all(each), partly=any(each))
