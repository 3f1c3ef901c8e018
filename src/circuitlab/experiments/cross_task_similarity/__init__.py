"""Examples of other tasks in a prompt: what they change, and how alike source and target are inside the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["CrossTaskSimilarity"]

Several = Annotated[int, msgspec.Meta(ge=2)]
Many = Annotated[int, msgspec.Meta(ge=100)]

_SIGNIFICANT = 0.05


class CrossTaskSimilarity(Experiment, frozen=True, forbid_unknown_fields=True):
    """Show examples of one task before a question of another, and compare what they change with how alike the tasks are.

    Eight tasks on words and countries, each with a sentence that defines it. A prompt holds the definition and examples of a *source*,
    then the definition of a *target* and a question. Its *gain* is the change of the answer's log-probability (or of accuracy: whether the
    answer is the likeliest next token) against the same prompt without the source. The *similarity* of two tasks is the cosine of the
    residual stream over the tokens of their definitions.

    Parameters
    ----------
    prompts : int
        Questions of each target.
    shots : int
        Examples of the source.
    permutations : int
        Random orders of the tasks for the p-value.

    Notes
    -----
    The correlation of similarity with gain is over ordered pairs of different tasks, with each target's mean taken off both, and its
    p-value permutes the names of the tasks (Mantel): 56 pairs of 8 tasks are not independent. Similarity is averaged over all layers for
    the test; the figure shows every layer. The first token of a text is left out, since its activations are large and alike in every text.
    Intervals are Student's, over targets.

    References
    ----------
    Chatterjee, Tanwar, Dutta and Chakraborty (2024), Language Models can Exploit Cross-Task In-context Learning for Data-Scarce Novel
    Tasks, arXiv:2405.10548.
    """

    name: ClassVar[str] = "cross_task_similarity"
    title: ClassVar[str] = "Examples of other tasks"
    question: ClassVar[str] = "Do examples of another task help, and do those help more whose task is alike inside the model?"
    cite: ClassVar[tuple[str, ...]] = ("chatterjee2024",)
    cost: ClassVar[str] = "5 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Examples of another task raise accuracy over no examples.",
            published="LLaMA-2 7B +107 %, 13B +18.6 %, GPT-3.5 +3.2 %, relative, mean over tasks.",
            rule="Accuracy with examples of other tasks, mean over sources, is higher than without by more than 0 (95 %, over targets); "
            "in part if only the log-probability of the answer is.",
        ),
        Claim(
            claim="The more alike source and target are inside the model, the more the examples help.",
            published="Cosine of activations by layer correlates with the gain (LLaMA-2 7B and 13B; the sign only is compared).",
            rule="The correlation of the similarity of definitions, mean over layers, with the gain in log-probability is above 0, with p "
            "below 0.05 over permutations of the tasks.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "The paper's tasks are benchmarks of questions with options; these are pairs of words, which a small model can do.",
        "The paper gives one example of the source, chosen to be similar to the question; here several are drawn at random.",
        "With eight tasks a correlation must be large (about 0.35) to be told from chance.",
    )

    prompts: Several = 10
    shots: Several = 3
    permutations: Many = 5000

    def gate(self, context: ExperimentContext) -> Gate:
        """Examples of the task itself must help."""
        from circuitlab.experiments.cross_task_similarity.transfer import own_help  # noqa: PLC0415 - torch

        measured = own_help(context.model, self._prompts(context))
        said = (
            f"It answers {measured['alone']['mean']:.0%} without examples, and {self.shots} examples of the same task change that by "
            f"{interval_words(measured['own'])}."
        )
        return Gate(met=measured["own"]["low"] > 0, reason=said, measured=measured)

    def _prompts(self, context: ExperimentContext) -> Any:
        from circuitlab.experiments.cross_task_similarity.prompts import cross_prompts  # noqa: PLC0415 - torch

        return cross_prompts(context.model, self.prompts, self.shots, context.rng("prompts"))

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Gains of every pair of tasks, similarities, and their correlation."""
        from circuitlab.experiments.cross_task_similarity.transfer import gains, similarities  # noqa: PLC0415 - torch

        prompts = self._prompts(context)
        with context.share(0.0, 0.95):
            changed = context.stored("gains", lambda: gains(context.model, prompts))
        with context.share(0.95, 1.0):
            alike = context.stored("similarities", lambda: similarities(context.model, prompts))
        return {"tasks": list(prompts.names), "gains": changed, **self._related(context, changed, alike)}

    def _related(self, context: ExperimentContext, changed: Mapping[str, Any], alike: Mapping[str, Any]) -> dict[str, Any]:
        """Correlations of both similarities with the gain in log-probability, and the similarities averaged over layers."""
        import numpy as np  # noqa: PLC0415

        from circuitlab.experiments.cross_task_similarity.transfer import related  # noqa: PLC0415

        gain, result = np.array(changed["likely"]["shown"]), {}
        for name, layers in alike.items():
            result[name] = related(gain, np.array(layers), self.permutations, context.rng("orders"))
        return {"related": result, "similarity": {name: np.mean(layers, axis=0).round(5).tolist() for name, layers in alike.items()}}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By intervals over targets, and the permutation test."""
        right, likely = (results["gains"][name]["cross"] for name in ("right", "likely"))
        alone = sum(results["gains"]["right"]["alone"]) / len(results["tasks"])
        here = (
            f"accuracy changes by {interval_words(right['shown'])} from {alone:.2f}, with the examples' answers moved by "
            f"{interval_words(right['dealt'])}; log-probability by {interval_words(likely['shown'])}, moved "
            f"{interval_words(likely['dealt'])}"
        )
        first = judged(self.published[0], here, holds=right["shown"]["low"] > 0, partly=likely["shown"]["low"] > 0)
        about, last = results["related"]["definition"], results["related"]["last"]
        top = max(range(len(about["layers"])), key=lambda layer: about["layers"][layer])
        here = (
            f"correlation {about['mean']:+.2f}, p = {about['p']:.3f} (permuted tasks: {about['null'][0]:+.2f} to "
            f"{about['null'][1]:+.2f}), largest in layer {top}: {about['layers'][top]:+.2f}; with the last token of the question instead "
            f"{last['mean']:+.2f}, p = {last['p']:.3f}"
        )
        return first, judged(self.published[1], here, holds=about["mean"] > 0 and about["p"] < _SIGNIFICANT)

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Gains and similarities by source and target, and the correlation in every layer."""
        from circuitlab.figures import Series, Wording, line_series, value_grid  # noqa: PLC0415 - plotly

        names = [name.replace("_", " ") for name in results["tasks"]]
        words = Wording("Whose examples help whom?", subtitle, x="target", y="source", units="log-probability: change, nats")
        gain = value_grid(results["gains"]["likely"]["shown"], (names, names), words)
        alike = [[None if i == j else value for j, value in enumerate(row)] for i, row in enumerate(results["similarity"]["definition"])]
        words = Wording("Which tasks are alike inside the model?", subtitle, x="target", y="source", units="cosine, mean over layers")
        similar = value_grid(alike, (names, names), words, signed=False)
        related, layers = results["related"], range(len(results["related"]["definition"]["layers"]))
        lines = {
            "definitions": Series(list(layers), related["definition"]["layers"]),
            "last token of the question": Series(list(layers), related["last"]["layers"]),
        }
        words = Wording("Does similarity go with help?", subtitle, x="layer", y="correlation with the gain")
        limits = {"95 % of chance": related["definition"]["null"][1], "0": 0.0}
        return [
            Picture("gains", gain, "Change of the answer's log-probability by examples of the source; the diagonal is the task itself."),
            Picture("similarity", similar, "Cosine of the residual stream over the tokens of two definitions, mean over layers."),
            Picture(
                "correlation",
                line_series(lines, words, references=limits),
                "Correlation of similarity with gain over pairs of different tasks, each target's mean taken off. Dashed: the 95th "
                "percentile over permutations of the tasks, for the similarity of definitions averaged over layers.",
            ),
        ]
