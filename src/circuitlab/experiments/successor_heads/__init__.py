"""Successor heads: a head that writes the next item of a list, and what it reads the place in the list from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture

if TYPE_CHECKING:
    from circuitlab.experiments.successor_heads.items import Items, Reading

__all__ = ["SuccessorHeads"]

Count = Annotated[int, msgspec.Meta(ge=1)]
Several = Annotated[int, msgspec.Meta(ge=2)]

_LEAST_ITEMS, _LEAST_LISTS = 40, 3
_NUMBERS = ("numbers", "number_words")


class SuccessorHeads(Experiment, frozen=True, forbid_unknown_fields=True):
    """Find the head that writes the next item of a list most often, and ask what it reads (Gould et al. 2024).

    All but the last two claims are read from weights: the effective OV circuit gives a head what the first MLP makes of a token, and reads
    what it writes as logits. The score of a head is the share of items of ordered lists (numbers, number words, ordinals, days, months,
    letters) for which it writes the next one most of its list. Of the best head, the experiment shows its effective-OV matrix, whether it
    writes later items more than earlier ones, whether an item can be put together from the *index* of one item and the *domain* of
    another, and whether features of the index modulo 10 are shared between lists: by a linear probe that sees numbers only, by sparse
    autoencoders, and by vector arithmetic. On text, it is the direct effect of the head that is measured.

    Parameters
    ----------
    saes : int
        Sparse autoencoders, each from another seed.
    passages : int
        Passages of natural text in which something follows an earlier token of its list; the first of circuitlab's.
    counted : int
        Numbered lists of each form.
    random_heads : int
        Random heads of the same layer, at most.

    Notes
    -----
    Claims about *the* successor head are judged only where a head scores above 0.5; otherwise what the best head does is shown without a
    verdict. For all but the score itself, each list is taken in the spelling with most single tokens, so that an item counts once:
    intervals are over items (over passages, for text), and those of rates stay between 0 and 1 (`rate_interval`). The greater-than bias
    of a source is the mean of the effective-OV matrix over targets two or more places later, minus the same for earlier ones, after the
    mean of every target over sources is taken off, in units of the matrix's spread. A direct effect is that of mean ablation on the way
    to the logits alone.

    References
    ----------
    Gould, Ong, Ogden and Conmy (2024), Successor Heads: Recurring, Interpretable Attention Heads In The Wild, arXiv:2312.09230.
    """

    name: ClassVar[str] = "successor_heads"
    title: ClassVar[str] = "Successor heads"
    question: ClassVar[str] = (
        "Does a head write the next item of any ordered list, and does it read the place in the list from shared features?"
    )
    cite: ClassVar[tuple[str, ...]] = ("gould2024",)
    cost: ClassVar[str] = "2 minutes"
    version: ClassVar[int] = 2
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="Some head writes the next item of ordered lists: its successor score is above 0.5.",
            published="Models of 31M to 12B parameters (Pythia, GPT-2, Llama 2) have one; Pythia-1.4B: a12.h0.",
            rule="The score of the best head is above 0.5, and next items permuted within lists do not give it (q < 0.05 over all heads); "
            "in part if only the second holds.",
        ),
        Claim(
            claim="One head stands out from all others.",
            published="Pythia-1.4B: the best head scores about 8 times the runner-up.",
            rule="The best head scores at least twice the runner-up; in part if it is right for more items (95 %, paired over items).",
        ),
        Claim(
            claim="The head is biased towards greater items: it writes later items of a list more than earlier ones.",
            published="Effective-OV matrices of numbers: larger above the diagonal.",
            rule="Later minus earlier targets, neighbours left out, is above 0 (95 % over sources) and above that of every random head of "
            "the layer; in part if only the first holds.",
        ),
        Claim(
            claim="Index and domain can be recombined: the index of one item and the list of another give the right item.",
            published="Pythia: 1.00 of held-out pairs decoded.",
            rule="More than half of held-out items are decoded as the nearest of all items (95 % over items); in part if more than with "
            "indices dealt out anew (95 %).",
        ),
        Claim(
            claim="A linear probe of numbers modulo 10 reads the index of items of other lists.",
            published="94 of 102 items that are no numbers.",
            rule="More than half of the items of lists without numbers (95 % over items); in part if more than the commonest residue's "
            "share (95 %).",
        ),
        Claim(
            claim="Sparse autoencoders have features of the index modulo 10 that are shared between lists.",
            published="The commonest most important feature covers 58.5 % of a residue's items; its cosine with the probe's row is 0.71.",
            rule="Its share is above that with residues dealt out anew (95 % over residues) and above 0.5; in part if only the first "
            "holds.",
        ),
        Claim(
            claim="Moving an item along these features moves what the head writes.",
            published="Numbers 20 to 29: 89 % of moves; months: about 53 %; days and letters fail.",
            rule="Of months, more moves succeed than by chance and than with a probe of dealt-out residues (95 % over items); in part if "
            "this holds of number words, which the probe has seen.",
        ),
        Claim(
            claim="On numbered lists, the head has the largest direct effect of all heads on the next number.",
            published="64 of 64 prompts.",
            rule="Of numbered lists with digits, more than half (95 %), and more than for every random head; in part if more than one in "
            "the number of heads (95 %) and than for every random head.",
        ),
        Claim(
            claim="In natural text, the head helps most where the text goes on with the next item of a list.",
            published="Succession, acronyms, copying and greater-than are what the head's winning cases are of.",
            rule="Its direct effect there is larger than elsewhere in the same passages (95 % over passages), and the difference larger "
            "than for every random head; in part if only the first holds.",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "Where a tokenizer splits numbers into digits, as SmolLM2's does, the numbers 1 to 200 of the paper are the digits 1 to 9: most "
        "items are then words and letters, and the probe is trained on digits and number words up to twenty.",
        "The paper holds Roman numerals out of its index and domain spaces; here, every item is held out once, in five folds.",
        "The paper sorts winning cases by hand; here, a case of succession is a next token that follows an earlier token of the passage in "
        "one of the lists, and acronyms are not looked at.",
        "Sizes of the paper's autoencoders, and how far its arithmetic moves, are not known; both are stated with the functions.",
    )

    saes: Count = 3
    passages: Several = 24
    counted: Several = 16
    random_heads: Several = 5

    def gate(self, context: ExperimentContext) -> Gate:
        """Enough items that are single tokens, in enough lists."""
        from circuitlab.execute.needs import refusal  # noqa: PLC0415 - torch
        from circuitlab.experiments.successor_heads.items import items_of, known_lists  # noqa: PLC0415
        from circuitlab.methods.roles.successor import Successor  # noqa: PLC0415

        if context.model.tokenizer is None:
            return Gate(met=False, reason=f"{context.model.spec.name} has no tokenizer, so items of lists are not known.")
        if reason := refusal(Successor(), context.model):
            return Gate(met=False, reason=reason)
        items = items_of(context.model, known_lists(context.model))
        counts = {name: len(items.rows(name)) for name in items.names}
        total = sum(counts.values())
        listed = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "none"
        enough = total >= _LEAST_ITEMS and len(counts) >= _LEAST_LISTS
        wanted = "" if enough else f"; {_LEAST_ITEMS} in {_LEAST_LISTS} lists are needed"
        return Gate(met=enough, reason=f"{total} items are single tokens: {listed}{wanted}.", measured={"items": counts})

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Score all heads, then ask about the best one."""
        from circuitlab.core.nodes import Head, parse_node  # noqa: PLC0415
        from circuitlab.experiments.successor_heads.items import Reading, items_of, known_lists  # noqa: PLC0415 - torch
        from circuitlab.experiments.successor_heads.scoring import matrix_and_bias, score_heads  # noqa: PLC0415
        from circuitlab.methods.roles.successor import Successor  # noqa: PLC0415

        model = context.model
        items = items_of(model, known_lists(model))
        with context.share(0.0, 0.1):
            scores = context.stored("scores", lambda: score_heads(model, items, Successor(seed=context.seed)))
        head = parse_node(scores["head"])
        assert isinstance(head, Head)  # noqa: S101 - it was written from one
        with context.share(0.1, 0.2):
            bias = context.stored("bias", lambda: matrix_and_bias(context, items, head, self.random_heads))
        with context.share(0.2, 0.6):
            features = context.stored("features", lambda: self._features(context, items, Reading(model, head)))
        with context.share(0.6, 1.0):
            text = context.stored("text", lambda: self._text(context, head))
        words = [] if not bias["lists"] else [str(model.tokenizer.decode([token])).strip() for token in bias["tokens"]]  # type: ignore[union-attr]
        return {"scores": scores, "bias": {**bias, "words": words}, "features": features, "text": text}

    def _features(self, context: ExperimentContext, items: Items, reading: Reading) -> dict[str, Any]:
        from circuitlab.experiments.successor_heads.features import arithmetic, autoencoders, probed  # noqa: PLC0415
        from circuitlab.experiments.successor_heads.items import number_tokens, without  # noqa: PLC0415
        from circuitlab.experiments.successor_heads.spaces import recombined  # noqa: PLC0415
        from circuitlab.methods.roles.succession import TASKS, succession  # noqa: PLC0415

        model = context.model
        spaces = recombined(reading, items, context.rng("spaces"))
        probe, control, about = probed(reading, without(items, _NUMBERS), number_tokens(model), context.rng("probe"))
        pairs = succession(model, tuple(TASKS), ())
        seeds = [int(seed) for seed in context.rng("saes").integers(0, 2**31, self.saes)]
        learned = autoencoders(reading, items, sorted({*pairs.sources, *pairs.targets}), seeds, probe)
        moved = arithmetic(reading, items, probe, control)
        for one in moved.values():
            one["words"] = [str(model.tokenizer.decode([token])).strip() for token in one.pop("tokens")]  # type: ignore[union-attr]
        return {"spaces": spaces, "probe": about, "saes": learned, "arithmetic": moved}

    def _text(self, context: ExperimentContext, head: Any) -> dict[str, Any]:
        from circuitlab.experiments.controls import random_heads  # noqa: PLC0415
        from circuitlab.experiments.successor_heads.in_text import counted_lists, effects, pairs_of, successions  # noqa: PLC0415

        model, rng = context.model, context.rng("counted")
        shape = model.spec.n_layers, model.spec.n_heads
        drawn = dict.fromkeys(random_heads([head], shape, self.random_heads, context.rng("text", str(head))))
        heads = {"chosen": [head], "random": [one for (one,) in drawn]}
        natural = successions(model, pairs_of(model), self.passages)
        prompts = {"passages": natural, **counted_lists(model, self.counted, rng)}
        return {name: effects(model, *given, heads) for name, given in prompts.items() if len(given[0]) > 1}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By the rules of ``published``."""
        from circuitlab.experiments.successor_heads.verdicts import verdicts  # noqa: PLC0415

        return verdicts(self.published, results)

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Score map, effective-OV matrix, arithmetic and effects in text."""
        from circuitlab.experiments.successor_heads.drawings import drawings  # noqa: PLC0415 - plotly

        return drawings(results, subtitle)
