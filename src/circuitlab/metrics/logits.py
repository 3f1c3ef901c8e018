"""Metrics of logits: logits at the answer position -> one value per pair, never a batch mean.

Every metric is a frozen dataclass; ``metric(logits, batch)`` takes logits of shape (..., pair, vocab). Linear metrics also
give the coefficients that logit attribution reads through the unembedding.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias

from circuitlab.core.errors import BadParameterError, UnknownNameError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.model.batch import ContrastBatch

__all__ = ["METRICS", "AnswerLogit", "KLDivergence", "LogProb", "LogitDiff", "Metric", "ProbDiff", "correct", "get_metric", "metric_params"]

Reduce: TypeAlias = Literal["mean", "max", "logsumexp"]


class Metric(Protocol):
    """One value per pair; larger means better for the answer.

    ``whole_vocabulary`` says whether it reads every logit; if not, it only reads those of answers and foils, and a method may
    unembed nothing else. ``needs_reference`` says whether it compares with the clean run, whose distribution ``batch.reference``
    then has to hold.

    Examples
    --------
    >>> metric: Metric = LogitDiff(reduce="max")
    >>> metric.name, metric.units, metric.linear
    ('logit_diff', 'logits', False)
    """

    name: ClassVar[str]
    units: ClassVar[str]
    whole_vocabulary: ClassVar[bool]
    needs_reference: ClassVar[bool]

    @property
    def linear(self) -> bool:
        """Whether the value is linear in the logits."""
        ...

    def __call__(self, logits: Float[Tensor, "*rows pair vocab"], batch: ContrastBatch) -> Float[Tensor, "*rows pair"]:
        """Value of each pair."""
        ...


def _gather(logits: Float[Tensor, "*rows pair vocab"], ids: Int[Tensor, "pair k"]) -> Float[Tensor, "*rows pair k"]:
    index = ids.clamp(min=0).to(logits.device).expand(*logits.shape[:-1], ids.shape[-1])
    return logits.gather(-1, index)


def _reduce(values: Float[Tensor, "*rows pair k"], ids: Int[Tensor, "pair k"], how: Reduce) -> Float[Tensor, "*rows pair"]:
    present = (ids >= 0).to(values.device)
    if how == "mean":
        return (values * present).sum(-1) / present.sum(-1)
    hidden = values.masked_fill(~present, float("-inf"))
    return hidden.amax(-1) if how == "max" else hidden.logsumexp(-1)


@dataclass(frozen=True)
class LogitDiff:
    """Logit of the answers minus logit of the foils (Wang et al. 2022).

    Parameters
    ----------
    reduce : {"mean", "max", "logsumexp"}
        How a set of several tokens becomes one logit; only ``"mean"`` is linear.
    """

    name: ClassVar[str] = "logit_diff"
    units: ClassVar[str] = "logits"
    whole_vocabulary: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    reduce: Reduce = "mean"

    @property
    def linear(self) -> bool:
        """True for ``reduce="mean"``."""
        return self.reduce == "mean"

    def __call__(self, logits: Float[Tensor, "*rows pair vocab"], batch: ContrastBatch) -> Float[Tensor, "*rows pair"]:
        """Answers minus foils, in logits, per pair."""
        right = _reduce(_gather(logits, batch.answers), batch.answers, self.reduce)
        return right - _reduce(_gather(logits, batch.foils), batch.foils, self.reduce)

    def coefficients(self, batch: ContrastBatch) -> tuple[Int[Tensor, "pair k"], Float[Tensor, "pair k"]]:
        """Token ids (padding as 0) and the weight of each one's logit."""
        ids, weights = _mean_weights(batch.answers)
        foil_ids, foil_weights = _mean_weights(batch.foils)
        return _concat(ids, foil_ids), _concat(weights, -foil_weights)


@dataclass(frozen=True)
class AnswerLogit:
    """Mean logit of the answer set. Not invariant to a shift of all logits: a weak metric on its own.

    Examples
    --------
    >>> import torch
    >>> from circuitlab.model.batch import ContrastBatch
    >>> batch = ContrastBatch.from_tokens([[0, 1]], [[0, 2]], answers=[[1, 2]], foils=[3])
    >>> AnswerLogit()(torch.tensor([[0.0, 3.0, 1.0, 0.5]]), batch).tolist()
    [2.0]
    """

    name: ClassVar[str] = "answer_logit"
    units: ClassVar[str] = "logits"
    whole_vocabulary: ClassVar[bool] = False
    needs_reference: ClassVar[bool] = False
    linear: ClassVar[bool] = True

    def __call__(self, logits: Float[Tensor, "*rows pair vocab"], batch: ContrastBatch) -> Float[Tensor, "*rows pair"]:
        """Mean answer logit per pair."""
        return _reduce(_gather(logits, batch.answers), batch.answers, "mean")

    def coefficients(self, batch: ContrastBatch) -> tuple[Int[Tensor, "pair k"], Float[Tensor, "pair k"]]:
        """Token ids (padding as 0) and the weight of each one's logit."""
        return _mean_weights(batch.answers)


@dataclass(frozen=True)
class ProbDiff:
    """Probability of the answer set minus probability of the foil set, softmax over the whole vocabulary (Hanna et al. 2023).

    Examples
    --------
    >>> import torch
    >>> from circuitlab.model.batch import ContrastBatch
    >>> batch = ContrastBatch.from_tokens([[0, 1]], [[0, 2]], answers=[1], foils=[2])
    >>> round(ProbDiff()(torch.tensor([[0.5, 0.4, 0.1]]).log(), batch).item(), 3)
    0.3
    """

    name: ClassVar[str] = "prob_diff"
    units: ClassVar[str] = "probability"
    whole_vocabulary: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    def __call__(self, logits: Float[Tensor, "*rows pair vocab"], batch: ContrastBatch) -> Float[Tensor, "*rows pair"]:
        """Probability difference per pair."""
        probabilities = logits.softmax(-1)
        sums = [(_gather(probabilities, ids) * (ids >= 0).to(logits.device)).sum(-1) for ids in (batch.answers, batch.foils)]
        return sums[0] - sums[1]


@dataclass(frozen=True)
class LogProb:
    """Log-probability (nats) of the answer set, softmax over the whole vocabulary.

    Examples
    --------
    >>> import torch
    >>> from circuitlab.model.batch import ContrastBatch
    >>> batch = ContrastBatch.from_tokens([[0, 1]], [[0, 2]], answers=[[1, 2]], foils=[0])
    >>> round(LogProb()(torch.tensor([[0.5, 0.4, 0.1]]).log(), batch).exp().item(), 3)
    0.5
    """

    name: ClassVar[str] = "log_prob"
    units: ClassVar[str] = "nats"
    whole_vocabulary: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    linear: ClassVar[bool] = False

    def __call__(self, logits: Float[Tensor, "*rows pair vocab"], batch: ContrastBatch) -> Float[Tensor, "*rows pair"]:
        """Log of the summed probability of the answers, per pair."""
        return _reduce(_gather(logits.log_softmax(-1), batch.answers), batch.answers, "logsumexp")


@dataclass(frozen=True)
class KLDivergence:
    """How far the next-token distribution is from the clean run's: ``-KL(clean || this run)``, over the whole vocabulary.

    Larger is better, as for every metric: the clean run scores 0, every other run less. Answers and foils play no part. The clean run's
    distribution is read from ``batch.reference``, which methods fill in. At the clean run the divergence is at its minimum, so that
    its gradient there is zero: methods that differentiate do so at the corrupt run or on the way between the two.

    Raises
    ------
    BadParameterError
        When called on a batch without a reference.

    References
    ----------
    Conmy et al. (2023), Towards Automated Circuit Discovery for Mechanistic Interpretability, arXiv:2304.14997.

    Examples
    --------
    >>> import torch
    >>> from circuitlab.model.batch import ContrastBatch
    >>> batch = ContrastBatch.from_tokens([[0, 1]], [[0, 2]], answers=[1], foils=[2])
    >>> clean = torch.tensor([[0.5, 0.5]]).log()
    >>> batch = dataclasses.replace(batch, reference=clean)
    >>> KLDivergence()(clean, batch).item(), round(KLDivergence()(torch.tensor([[0.9, 0.1]]).log(), batch).item(), 3)
    (0.0, -0.511)
    """

    name: ClassVar[str] = "kl"
    units: ClassVar[str] = "nats"
    whole_vocabulary: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = True
    linear: ClassVar[bool] = False

    def __call__(self, logits: Float[Tensor, "*rows pair vocab"], batch: ContrastBatch) -> Float[Tensor, "*rows pair"]:
        """Minus the divergence per pair, in nats."""
        if batch.reference is None:
            what = "'kl' compares with the clean run, and this batch holds no distribution of it."
            raise BadParameterError(what, "Call batch = with_reference(model, metric, batch) from circuitlab.execute first.")
        clean = batch.reference.to(logits)
        return (clean.exp() * (logits.log_softmax(-1) - clean)).sum(-1)


METRICS: dict[str, type[Any]] = {cls.name: cls for cls in (LogitDiff, ProbDiff, AnswerLogit, LogProb, KLDivergence)}
"""Every metric by name."""


def get_metric(name: str | Metric) -> Any:
    """The metric of this name with its default parameters (an instance as it is); an unknown name raises `UnknownNameError`.

    Examples
    --------
    >>> get_metric("logit_diff"), sorted(METRICS)
    (LogitDiff(reduce='mean'), ['answer_logit', 'kl', 'log_prob', 'logit_diff', 'prob_diff'])
    """
    if not isinstance(name, str):
        return name
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]()


def metric_params(metric: Metric) -> dict[str, Any]:
    """Every effective parameter of a metric.

    Examples
    --------
    >>> metric_params(LogitDiff())
    {'reduce': 'mean'}
    """
    return dataclasses.asdict(metric)  # type: ignore[call-overload]


def correct(logits: Float[Tensor, "pair vocab"], batch: ContrastBatch) -> list[bool]:
    """Whether the best answer beats every foil and distractor, per pair.

    Examples
    --------
    >>> import torch
    >>> from circuitlab.model.batch import ContrastBatch
    >>> batch = ContrastBatch.from_tokens([[0, 1]] * 2, [[0, 2]] * 2, answers=[1, 2], foils=[2, 1])
    >>> correct(torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]]), batch)
    [True, False]
    """
    best = _reduce(_gather(logits, batch.answers), batch.answers, "max")
    rivals = _concat(batch.foils, batch.distractors)
    return (best > _reduce(_gather(logits, rivals), rivals, "max")).tolist()


def _mean_weights(ids: Int[Tensor, "pair k"]) -> tuple[Int[Tensor, "pair k"], Float[Tensor, "pair k"]]:
    present = (ids >= 0).float()
    return ids.clamp(min=0), present / present.sum(-1, keepdim=True)


def _concat(first: Tensor, second: Tensor) -> Tensor:
    import torch  # noqa: PLC0415 - metrics are named by light commands that must not import torch

    return torch.cat([first, second], dim=-1)
