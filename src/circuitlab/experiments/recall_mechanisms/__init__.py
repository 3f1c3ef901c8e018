"""Mechanisms of factual recall: topic heads, relation heads, what MLPs do with them, and last layers that hold back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.core.errors import BadParameterError
from circuitlab.experiments.recall_mechanisms.drawing import figures
from circuitlab.experiments.recall_mechanisms.verdicts import verdicts
from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture

__all__ = ["RecallMechanisms"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Several = Annotated[int, msgspec.Meta(ge=2)]

_LEAST_COUNTRIES = 12


class RecallMechanisms(Experiment, frozen=True, forbid_unknown_fields=True):
    """Follow a fact through the model, step by step (Lv et al. 2024): heads fetch the topic, MLPs turn it into the answer.

    Prompts ask for the capital and for the language of the same countries, in five wordings: ``Please remember that the capital of Poland
    is``. Only countries are used whose capital the model answers when asked in another way. They are split in two halves: heads, layers and
    factors are chosen on the first, and everything is measured on the second.

    A *topic head* writes, at the last token, the name of the prompt's own country more than the names of the others. A *relation head*
    writes capitals more than languages where the capital is asked for, above what it does where the language is asked for. Both are read
    as direct logits, with the final norm's scale held. Every MLP's output at the last token is then regressed on what the heads of its
    layer wrote and on the stream that enters the layer: one coefficient for each, shared by all prompts and dimensions, and one intercept
    vector. A coefficient above 0 amplifies what a head wrote, one below 0 erases it; the intercept is what the MLP adds whatever the
    country is. Last, attention and MLP of the final layers are scaled down one by one, to see which of them hold the true answer back.

    Parameters
    ----------
    heads : int
        Topic heads, and relation heads, that are chosen.
    random_sets : int
        Random sets of as many heads of the same layers.
    factors : tuple of float
        Factors, below 1, by which the attention or the MLP of a late layer is scaled.
    passages : int
        Passages of natural text, for how frequent tokens are and for what scaling costs elsewhere.

    Notes
    -----
    Intervals are Student's over held-out countries, of a country's mean over its wordings; those of coefficients are percentiles over
    resampled countries. How frequent a token is, is taken from the model's own mean prediction on passages.

    References
    ----------
    Lv et al. (2024), Interpreting Key Mechanisms of Factual Recall in Transformer-Based Language Models, arXiv:2403.19521.
    """

    name: ClassVar[str] = "recall_mechanisms"
    title: ClassVar[str] = "Mechanisms of factual recall"
    question: ClassVar[str] = "Do heads fetch the topic, do MLPs turn it into the answer, and do the last layers hold it back?"
    cite: ClassVar[tuple[str, ...]] = ("lv2024",)
    cost: ClassVar[str] = "4 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Some heads attend to the topic from the last token, and write it.",
            published="GPT-2 small, a9.h8 above all: it attends to the country and raises the country's logit.",
            rule="On countries that chose nothing, the topic heads write their own country above the others (95 %), and do so and attend "
            "to it more than every random set; in part if only the first holds.",
        ),
        Claim(
            claim="The answer depends on these heads.",
            published="GPT-2 family, OPT-1.3B, Llama-2-7B: found by path patching with mean activations.",
            rule="With their values at the last token replaced by means over other countries, the true capital loses more than 0 over the "
            "other capitals (95 %) and more than with every random set; in part if only the first holds.",
        ),
        Claim(
            claim="Heads are specific to what is asked of the topic.",
            published="Topic and answer are passed by task-specific heads.",
            rule="The relation heads write capitals above languages more where the capital is asked for than where the language is (95 %), "
            "and more than every random set; in part if only the first holds.",
        ),
        Claim(
            claim="An MLP amplifies what topic heads wrote, and erases what others did.",
            published="Coefficients of the regression differ by head; the topic stands out after the MLP.",
            rule="In the MLPs of their layers, the topic heads' coefficients are above the mean of the other heads' (95 % over resampled "
            "countries), and the difference is larger than for every random set; in part if only the first holds. Neither counts unless "
            "the topic heads' own mean is above 0 and the regression, fitted on other countries, explains more than 0 of each MLP's "
            "variance.",
        ),
        Claim(
            claim="A deep MLP has an intercept that moves the stream from the topic to the answer.",
            published="The component that heads do not explain points to the expected answer, and depends on the task.",
            rule="In the layer chosen on other countries, the intercept writes a held-out country's capital above its name (95 %), and "
            "more than the intercept of the same MLP where the language is asked for (95 %, paired); in part if only the first holds.",
        ),
        Claim(
            claim="The final layer lowers the probability of the right answer; scaled down, it raises it.",
            published="GPT-2 small to XL, OPT-1.3B, Llama-2-7B: anti-overconfidence in the final layer, mitigated by scaling.",
            rule="Scaling down its attention or its MLP, as chosen on other countries, raises the log-probability of the capital (95 %), "
            "and by more than the same in each of the three layers before; in part if only the first holds.",
        ),
        Claim(
            claim="What the final layer writes favours frequent tokens.",
            published="Heads of the final layer copy frequent tokens, and its MLP moves the stream to a frequent direction.",
            rule="Over the vocabulary, the final layer's logits correlate with the log-frequency of tokens above 0 (95 %), and more than "
            "those of each of the three layers before (95 %, paired); in part if only the first holds.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "Wordings are circuitlab's own, five instead of fifteen, and ask for capitals; languages serve as the other relation.",
        "The paper finds heads by path patching; here they are found by what they write, and then ablated.",
        "The regression explains an MLP's output on held-out prompts in part only; the share is said with the claim.",
        "Training frequencies are not known for this model, so that the model's own mean prediction on passages stands for them.",
    )  # fmt: skip

    heads: Count = 5
    random_sets: Several = 10
    factors: tuple[float, ...] = (0.0, 0.5)
    passages: Several = 24

    def gate(self, context: ExperimentContext) -> Gate:
        """The model answers the capitals of twelve countries whose names, capitals and languages are one token each."""
        if context.model.tokenizer is None:
            return Gate(met=False, reason=f"{context.model.spec.name} has no tokenizer, and prompts are text.")
        from circuitlab.experiments.recall_mechanisms.facts import known_facts  # noqa: PLC0415 - torch

        try:
            facts, asked = known_facts(context.model)
        except BadParameterError as error:
            return Gate(met=False, reason=f"Its tokens do not fit the prompts: {error.what}")
        known = 0 if facts is None else len(facts.names)
        said = f"It answers {known} of {asked} capitals of countries that are one token, like their capitals and languages."
        return Gate(met=known >= _LEAST_COUNTRIES, reason=said, measured={"known": known, "asked": asked})

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Choose on half of the countries, and measure on the other half."""
        from circuitlab.execute.text_rows import text_rows  # noqa: PLC0415 - torch
        from circuitlab.experiments.recall_mechanisms.facts import known_facts  # noqa: PLC0415
        from circuitlab.experiments.recall_mechanisms.steps import measured  # noqa: PLC0415
        from circuitlab.texts import load_texts  # noqa: PLC0415

        facts, _ = known_facts(context.model)
        assert facts is not None  # noqa: S101 - the gate was met
        rows = text_rows(context.model, load_texts(n=self.passages), 64)
        return measured(context, facts, rows)

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By intervals over held-out countries, and by random heads or earlier layers."""
        return verdicts(self.published, results)

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Maps of topic heads, relation heads and coefficients; intercepts by layer; the last layers."""
        return figures(results, subtitle)
