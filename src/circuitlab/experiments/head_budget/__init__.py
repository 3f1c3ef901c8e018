"""Heads for each token: what a model loses if every token keeps only some heads of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["HeadBudget"]

Several = Annotated[int, msgspec.Meta(ge=2)]
Count = Annotated[int, msgspec.Meta(ge=4)]

CODE = ("python", "javascript", "c", "java", "rust", "go", "haskell", "typescript", "c++", "lisp", "sql", "html", "json", "shell")
PROSE = ("narrative", "history", "science", "news", "travel", "essay", "biography", "letter", "fairy tale", "geography")
_LENGTH = 64
_CLOSE, _ALPHA = 0.05, 0.05
_FEWEST_HEADS = 3


class HeadBudget(Experiment, frozen=True, forbid_unknown_fields=True):
    """Keep a few heads of every layer for each token, and see what text loses (Jin et al. 2024, Mixture-of-Head attention).

    MoH lets a router choose heads for each token, and trains the model with it. Here nothing is trained: the question is what of it a
    model already has. For each token, and in each layer, the heads are kept that write the longest vectors to the stream (``write``), or
    those with the longest queries (``query``), read in a run with all heads, as a router from outside would give them. The others write
    nothing at that token; their keys and values stay. The controls are the heads that write most on other passages, the same for every
    token (``fixed``), and heads drawn at random for each token. What text loses is the rise of its next-token loss, as a share of it.

    Parameters
    ----------
    passages : int
        Passages to measure on; as many others choose the fixed heads. 64 tokens of each are read.
    shares : tuple of float
        Shares of a layer's heads that are kept, the largest first; rounded up to whole heads.
    random_draws : int
        Random draws of heads for all positions and layers.

    Notes
    -----
    Intervals are Student's over passages, paired where ways of choosing are compared. A random draw gives each position of a passage its
    own heads, and different passages the same.

    References
    ----------
    Jin et al. (2024), MoH: Multi-Head Attention as Mixture-of-Head Attention, arXiv:2410.11842.
    """

    name: ClassVar[str] = "head_budget"
    title: ClassVar[str] = "Heads for each token"
    question: ClassVar[str] = "Does every token need all heads, and can heads be chosen for it?"
    cite: ClassVar[tuple[str, ...]] = ("jin2024",)
    cost: ClassVar[str] = "4 minutes"
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="With three quarters of the heads for each token, a model is as good as with all.",
            published="MoH-LLaMA3-8B, trained further: 64.0 % on 14 benchmarks with 75 % of the heads, 2.4 more than with all.",
            rule="With the largest share of heads by what they write, the loss of passages rises by less than 5 % of it (upper limit of 95 "
            "%); in part if it rises by less than with random heads (95 %, paired).",
        ),
        Claim(
            claim="Each token has heads of its own.",
            published="Routing for each token is what MoH adds to pruning heads.",
            rule="As a mean over the shares, heads chosen for each token by what they write cost less than the fixed heads (95 %, paired) "
            "and less than every random draw; in part if they cost less than random heads only (95 %, paired).",
        ),
        Claim(
            claim="Heads can be chosen from their queries alone.",
            published="MoH-LLaMA3-8B: the router is the norm of the queries, without parameters.",
            rule="As a mean over the shares, heads chosen by their queries cost less than random heads (95 %, paired) and than every "
            "random draw; in part if this holds against the mean of the draws at the largest share only.",
        ),
        Claim(
            claim="Different texts load different heads.",
            published="Loads of heads in the last MoH layer differ between categories and tasks.",
            rule="At the middle share, loads of passages of code and of prose are further apart than with shuffled labels (p < 0.05).",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "Nothing is trained: MoH trains the router and the model together, and weighs the heads that it keeps.",
        "MoH keeps some shared heads for every token; here all heads of the budget are chosen.",
        "Heads that are not kept still give keys and values to other tokens, so that nothing is said about speed.",
    )

    passages: Count = 32
    shares: tuple[float, ...] = (0.75, 0.5, 0.25)
    random_draws: Several = 3

    def __post_init__(self) -> None:
        if (
            not self.shares
            or any(not 0 < share < 1 for share in self.shares)
            or list(self.shares) != sorted(set(self.shares), reverse=True)
        ):
            raise ValueError(f"shares {self.shares} are not falling shares between 0 and 1")

    def gate(self, context: ExperimentContext) -> Gate:
        """A layer has several heads to choose from, and text can be read."""
        heads = context.model.spec.n_heads
        if context.model.tokenizer is None:
            return Gate(met=False, reason=f"{context.model.spec.name} has no tokenizer, and passages are text.")
        said = f"A layer has {heads} heads; {_FEWEST_HEADS} are the fewest of which a share can be kept."
        return Gate(met=heads >= _FEWEST_HEADS, reason=said, measured={"heads": heads})

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Choose fixed heads on half of the passages, measure losses on the other half, and loads on code and prose."""
        from circuitlab.execute.text_rows import text_rows  # noqa: PLC0415 - torch
        from circuitlab.experiments.head_budget.budget import budget_losses, kept_of, load_difference  # noqa: PLC0415
        from circuitlab.texts import load_texts  # noqa: PLC0415

        model = context.model
        rows = text_rows(model, load_texts(n=2 * self.passages), _LENGTH)
        order = context.rng("halves").permutation(len(rows)).tolist()
        cut = len(order) // 2
        choosing, measuring = ([rows[i] for i in sorted(part)] for part in (order[:cut], order[cut:]))
        with context.share(0.0, 0.9):
            losses = context.stored("losses", lambda: budget_losses(context, choosing, measuring, self.shares, self.random_draws))
        groups = {name: text_rows(model, load_texts(kinds=kinds), _LENGTH) for name, kinds in (("code", CODE), ("prose", PROSE))}
        keep = kept_of(self.shares[len(self.shares) // 2], model.spec.n_heads)
        with context.share(0.9, 1.0):
            kinds = context.stored("loads", lambda: load_difference(model, groups, keep, context.rng("shuffled")))
        return {"losses": losses, "loads": {**kinds, "kept": keep}}

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By rises of the loss, and by loads against shuffled labels."""
        losses, loads = results["losses"], results["loads"]
        here = (
            f"loads of code and prose are {loads['apart']:.4f} further apart than within; 95 % of shuffled labels stay below "
            f"{loads['shuffled']:.4f} (p = {loads['p']:.2g})"
        )
        return (
            _enough(self.published[0], losses),
            _own_heads(self.published[1], losses),
            _queries(self.published[2], losses),
            judged(self.published[3], here, holds=loads["p"] < _ALPHA),
        )

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """The loss over the budget, and loads by kind of text."""
        from circuitlab.figures import Series, Wording, line_series, value_map  # noqa: PLC0415 - plotly

        losses, loads = results["losses"], results["loads"]
        x = [1.0, *(kept / losses["heads"] for kept in losses["kept"])]
        names = {
            "write": "longest writes of each token",
            "query": "longest queries of each token",
            "fixed": "fixed heads",
            "random": "random",
        }
        whole = {"mean": 0.0, "low": 0.0, "high": 0.0}
        lines = {name: Series.of(x, [whole, *losses["rises"][way]], control=way == "random") for way, name in names.items()}
        words = Wording("What does text lose with fewer heads?", subtitle, x="share of heads kept", y="rise of the loss, share of it")
        drawn = [Picture("losses", line_series(lines, words), "Loss of passages by how heads are chosen. Bands: 95 % over passages.")]
        code, prose = (loads["maps"][name] for name in ("code", "prose"))
        shown = [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(code, prose, strict=True)]
        words = Wording(
            "Which heads does code keep more than prose?", subtitle, units="share of tokens that keep the head, code minus prose"
        )
        caption = f"Share of tokens for which a head is among the {loads['kept']} that write most of its layer: code minus prose."
        return [*drawn, Picture("loads", value_map(shown, words), caption)]


def _above(interval: Mapping[str, Any]) -> bool:
    return interval["low"] is not None and interval["low"] > 0


def _enough(claim: Claim, losses: Mapping[str, Any]) -> Claim:
    rise, random = (losses["rises"][way][0] for way in ("write", "random"))
    here = (
        f"with {losses['kept'][0]} of {losses['heads']} heads the loss rises by {interval_words(rise, 3)} of "
        f"{losses['base']['mean']:.2f} nats; random heads {interval_words(random, 3)}"
    )
    small = rise["high"] is not None and rise["high"] < _CLOSE
    return judged(claim, here, holds=small, partly=_above(losses["first_random_minus_write"]))


def _own_heads(claim: Claim, losses: Mapping[str, Any]) -> Claim:
    mean, draws = losses["mean"], losses["random_draws"]
    here = (
        f"mean rise {mean['write']:.3f} with heads of each token, {mean['fixed']:.3f} with fixed heads, {min(draws):.3f} to "
        f"{max(draws):.3f} with random ones; fixed minus own {interval_words(losses['fixed_minus_write'], 3)}, random minus own "
        f"{interval_words(losses['random_minus_write'], 3)}"
    )
    holds = _above(losses["fixed_minus_write"]) and mean["write"] < min(draws)
    return judged(claim, here, holds=holds, partly=_above(losses["random_minus_write"]))


def _queries(claim: Claim, losses: Mapping[str, Any]) -> Claim:
    mean, draws = losses["mean"], losses["random_draws"]
    here = (
        f"mean rise {mean['query']:.3f} by queries, {min(draws):.3f} to {max(draws):.3f} with random heads; random minus queries "
        f"{interval_words(losses['random_minus_query'], 3)}; with {losses['kept'][0]} heads "
        f"{interval_words(losses['first_random_minus_query'], 3)}"
    )
    holds = _above(losses["random_minus_query"]) and mean["query"] < min(draws)
    return judged(claim, here, holds=holds, partly=_above(losses["first_random_minus_query"]))
