"""Toy memories: what attention becomes when it learns linear regression in context, and how many associations linear attention holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import msgspec

from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture, interval_words, judged

__all__ = ["ToyMemories"]

Several = Annotated[int, msgspec.Meta(ge=3)]
Steps = Annotated[int, msgspec.Meta(ge=20)]

_SMALL, _EXPLAINED, _CLOSE = 0.1, 0.95, 1.1
_PROPORTIONAL, _ROOT = (0.8, 1.2), (0.4, 0.6)


class ToyMemories(Experiment, frozen=True, forbid_unknown_fields=True):
    """Train one layer of softmax attention on linear regression, and fill linear attention with associations; no language model is asked.

    *Regression.* Contexts hold 40 examples ``(x_i; y_i)`` with ``y = b x + noise``, another ``b`` in every context, and a query
    ``(x_q; 0)``. Each head scores the examples with a matrix between key and query (KQ) and writes what it reads through a row (OV). From
    random weights, Adam minimises the squared error of the prediction.

    *Memory.* ``n`` pairs of random unit keys and values are stored in ``M = sum k v'``, which is what linear attention computes, and read
    with their keys. The *knee* is the ``n`` at which half of the values are no longer the nearest to what is read (of average retrieval),
    at which the interference is as large as the value, and at which it could be in the worst case.

    Parameters
    ----------
    seeds : int
        Random starts of the training, and random memories of each size; the independent unit of every interval.
    steps : int
        Steps of training.
    heads : tuple of int
        Numbers of heads that are trained: one, and two others, of which the claims must hold.
    widths : tuple of int
        Widths of keys.
    value_width : int
        Width of values.

    Notes
    -----
    Attention of one layer is written out here, since it is the subject itself; nothing of the language model is run, so that the results
    are the same for every model. Controls: the weights before training, training on targets that do not depend on ``x`` (in the tests), and
    keys that use 16 dimensions however wide they are.

    References
    ----------
    He, Pan, Chen and Yang (2025), In-Context Linear Regression Demystified, arXiv:2503.12734. Qiao (2025), Understanding Transformers
    through the Lens of Pavlovian Conditioning, arXiv:2508.08289.
    """

    name: ClassVar[str] = "toy_memories"
    title: ClassVar[str] = "Toy memories"
    question: ClassVar[str] = "What does attention become when it learns regression in context, and how many associations does it hold?"
    cite: ClassVar[tuple[str, ...]] = ("he2025icl", "qiao2025")
    cost: ClassVar[str] = "1 minute"
    version: ClassVar[int] = 2
    published: ClassVar[tuple[Claim, ...]] = (
        Claim(
            claim="The key-query matrix becomes a multiple of the identity on the covariates.",
            published="Softmax attention of one layer, several heads (He et al. 2025).",
            rule="With 2 and with 4 heads, mean absolute weights off the diagonal (the target's row included), and the standard deviation "
            "of the diagonal, are both below 0.1 of the mean absolute diagonal (upper limits over seeds); in part if with one of the "
            "numbers.",
        ),
        Claim(
            claim="Output weights are of the target only, and sum to zero over heads.",
            published="Heads of positive and of negative output (He et al. 2025).",
            rule="With 2 and with 4 heads, the absolute sum of the heads' output weights of the target is below 0.1 of the sum of their "
            "absolute values, and mean absolute other output weights are below 0.1 of that of the target (upper limits); in part if with "
            "one of the numbers.",
        ),
        Claim(
            claim="Attention predicts what one step of gradient descent on centred targets predicts.",
            published="Exactly for small weights (He et al. 2025).",
            rule="With 2 and with 4 heads, such a step explains more than 95 % of the variance of the predictions (lower limit), and more "
            "than a step on targets that are not centred (95 %, by seed); in part if with one of the numbers.",
        ),
        Claim(
            claim="Several heads predict better than one, nearly as well as such a step with its best length.",
            published="Two heads outperform one and come close to the best predictor up to a factor (He et al. 2025).",
            rule="With 2 and with 4 heads, the mean squared error is lower than that of one head (95 %, by seed), and at most 1.1 times "
            "that of the step (upper limit); in part if with one of the numbers.",
        ),
        Claim(
            claim="The number of associations that linear attention holds on average is proportional to the width of its keys.",
            published="O(d_k) (Qiao 2025, average case).",
            rule="Both for retrieval and for the size of the interference, the knee grows with a power of the width between 0.8 and 1.2 "
            "(whole interval over seeds); in part if one does.",
        ),
        Claim(
            claim="The number that it holds without error in the worst case grows with the root of the width.",
            published="O(sqrt(d_k)) (Qiao 2025, capacity theorem).",
            rule="The knee of the worst case grows with a power between 0.4 and 0.6 (whole interval).",
        ),
    )
    limits: ClassVar[tuple[str, ...]] = (
        "The experiment asks nothing of a language model: it shows what attention can become, not what it is in that model.",
        "Of the extensions of He et al., neither covariates of unequal variance nor several tasks at once are trained.",
        "Qiao's statements about depth, redundancy of heads and learning rules are not measured.",
    )

    seeds: Several = 6
    steps: Steps = 4000
    heads: tuple[int, int, int] = (1, 2, 4)
    widths: tuple[int, ...] = (16, 32, 64, 128)
    value_width: Several = 64

    def gate(self, context: ExperimentContext) -> Gate:
        """Always met: nothing is asked of the model."""
        del context
        return Gate(met=True, reason="It trains attention of its own and asks nothing of the language model, so that it always can be run.")

    def measure(self, context: ExperimentContext) -> dict[str, Any]:
        """Train for each number of heads, then fill memories."""
        from circuitlab.experiments.toy_memories.regression import Setting  # noqa: PLC0415 - torch

        trained, setting = {}, Setting(steps=self.steps)
        for i, heads in enumerate(self.heads):
            with context.share(0.25 * i, 0.25 * (i + 1)):
                trained[str(heads)] = context.stored(f"regression {heads}", partial(self._trained, setting, heads, context.seed))
        with context.share(0.75, 1.0):
            memory = context.stored("capacity", lambda: self._filled(context))
        return {"heads": list(self.heads), "regression": trained, "memory": memory}

    def _trained(self, setting: Any, heads: int, seed: int) -> dict[str, Any]:
        from circuitlab.experiments.toy_memories.regression import described, train  # noqa: PLC0415

        trained = train(setting, heads, self.seeds, seed)
        weights = {
            "kq": [[[round(v, 4) for v in row] for row in head] for head in trained.last.kq[0].tolist()],
            "ov": [[round(v, 4) for v in head] for head in trained.last.ov[0].tolist()],
        }
        before, after = (described(setting, some, seed) for some in (trained.first, trained.last))
        points = [round(setting.steps * (i + 0.5) / len(trained.loss)) for i in range(len(trained.loss))]
        loss = {"steps": points, "mean": trained.loss.mean(1).round(5).tolist()}
        return {"before": before, "after": after, "loss": loss, "first_seed": weights}

    def _filled(self, context: ExperimentContext) -> dict[str, Any]:
        from circuitlab.experiments.toy_memories.capacity import capacities  # noqa: PLC0415

        ranks = {"random": None, "same_rank": min(self.widths)}
        return {
            name: capacities(self.widths, self.value_width, self.seeds, context.rng("memory", name), rank) for name, rank in ranks.items()
        }

    def judge(self, results: Mapping[str, Any]) -> tuple[Claim, ...]:
        """By upper and lower limits over seeds."""
        one, *several = (results["regression"][str(heads)] for heads in results["heads"])
        claims = []
        for claim, fits in zip(self.published[:4], (_diagonal, _zero_sum, _descent, _risk), strict=True):
            answers = [fits(run, one["after"]) for run in several]
            here = "; ".join(f"{heads} heads: {said}" for heads, (_, said) in zip(results["heads"][1:], answers, strict=True))
            claims.append(judged(claim, here, holds=all(holds for holds, _ in answers), partly=any(holds for holds, _ in answers)))
        return (*claims, *self._memory(results["memory"]))

    def _memory(self, memory: Mapping[str, Any]) -> tuple[Claim, Claim]:
        powers, control = memory["random"]["exponents"], memory["same_rank"]["exponents"]
        fits = [_inside(powers[name], _PROPORTIONAL) for name in ("retrieval", "noise")]
        here = " and ".join(
            f"{what} power {interval_words(powers[name])} (keys of 16 dimensions at every width: {control[name]['mean']:.2f})"
            for name, what in (("retrieval", "retrieval"), ("noise", "interference"))
        )
        average = judged(self.published[4], here, holds=all(fits), partly=any(fits))
        worst = powers["error_free"]
        here = f"power {interval_words(worst)} (keys of 16 dimensions at every width: {control['error_free']['mean']:.2f})"
        return average, judged(self.published[5], here, holds=_inside(worst, _ROOT))

    def draw(self, results: Mapping[str, Any], subtitle: str) -> Sequence[Picture]:
        """Weights of the first seed, losses, retrieval and knees."""
        from circuitlab.experiments.toy_memories.drawing import drawings  # noqa: PLC0415 - plotly

        return drawings(results, subtitle)


def _below(interval: Mapping[str, Any], limit: float) -> bool:
    return interval["high"] is not None and interval["high"] < limit


def _inside(interval: Mapping[str, Any], limits: tuple[float, float]) -> bool:
    return interval["low"] is not None and limits[0] < interval["low"] and interval["high"] < limits[1]


def _difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, float]:
    """``first`` minus ``second`` by seed, with its interval."""
    import numpy as np  # noqa: PLC0415

    from circuitlab.scores.intervals import mean_interval  # noqa: PLC0415

    return mean_interval(np.subtract(first["seeds"], second["seeds"])).as_dict()


def _diagonal(run: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[bool, str]:
    del one
    said = {name: f"{interval_words(run['after'][name])} (before {run['before'][name]['mean']:.2f})" for name in ("off_diagonal", "uneven")}
    holds = all(_below(run["after"][name], _SMALL) for name in said)
    return holds, f"off the diagonal {said['off_diagonal']}, spread of the diagonal {said['uneven']}"


def _zero_sum(run: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[bool, str]:
    del one
    after, before = run["after"], run["before"]
    said = {name: f"{interval_words(after[name])} (before {before[name]['mean']:.2f})" for name in ("sum", "other_outputs")}
    both = int(sum(after["signs"]["seeds"]))
    holds = all(_below(after[name], _SMALL) for name in said)
    count = len(after["signs"]["seeds"])
    return holds, f"sum {said['sum']}, other outputs {said['other_outputs']}, both signs in {both} of {count} seeds"


def _descent(run: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[bool, str]:
    del one
    debiased, plain = run["after"]["debiased"], run["after"]["plain"]
    more = _difference(debiased, plain)
    holds = debiased["low"] is not None and debiased["low"] > _EXPLAINED and more["low"] > 0
    return holds, f"{interval_words(debiased)} of the variance, {interval_words(more, 4)} more than a step that is not centred"


def _risk(run: Mapping[str, Any], one: Mapping[str, Any]) -> tuple[bool, str]:
    import numpy as np  # noqa: PLC0415

    from circuitlab.scores.intervals import mean_interval  # noqa: PLC0415

    after = run["after"]
    lower = _difference(after["risk"], one["risk"])
    ratio = mean_interval(np.divide(after["risk"]["seeds"], after["debiased_risk"]["seeds"])).as_dict()
    said = (
        f"squared error {after['risk']['mean']:.3f}, minus that of one head {interval_words(lower)}, {interval_words(ratio)} times that "
        f"of the step (ridge regression: {after['ridge_risk']['mean']:.3f})"
    )
    return bool(lower["high"] < 0 and ratio["high"] <= _CLOSE), said
