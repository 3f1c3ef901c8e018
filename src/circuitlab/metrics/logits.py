"""Metrics of the logits at the answer position: one value per pair, never a mean over the batch.

Every metric is a frozen dataclass. ``metric(logits, batch)`` takes logits of shape (..., pair, vocab) and returns shape (..., pair).
Linear metrics also have ``coefficients``: the weight of each token's logit, which logit attribution maps through the unembedding.
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

    Attributes
    ----------
    name, units : str
    whole_vocabulary : bool
        Whether the value depends on every logit. If not, it depends on those of answers and foils, and methods may compute only these.
    needs_reference : bool
        Whether it compares with the clean run, whose log-probabilities ``batch.reference`` must then hold.

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
        """Whether the value is a linear function of the logits."""
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
        How the logits of several answers (or foils) become one; only ``"mean"`` is linear.

    References
    ----------
    Wang et al. (2022), Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small, arXiv:2211.00593.
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
    """Mean logit of the answers. It changes when all logits shift together, so that it says little on its own.

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
    """Summed probability of the answers minus that of the foils, by softmax over the whole vocabulary (Hanna et al. 2023).

    References
    ----------
    Hanna, Liu and Variengien (2023), How does GPT-2 compute greater-than?, arXiv:2305.00586.

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
    """Log of the summed probability of the answers, in nats, by softmax over the whole vocabulary.

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
    """Minus the KL divergence of the next-token distribution from the clean run's, ``-KL(clean || this run)``, in nats.

    Larger is better, as for every metric: the clean run has the value 0, every other run less. Answers and foils are not used. The clean
    run's log-probabilities are read from ``batch.reference``, which methods fill in. The divergence is smallest at the clean run, so that
    its gradient is zero there: methods that take gradients do so at the corrupt run, or between the two.

    Raises
    ------
    BadParameterError
        If called on a batch without a reference.

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
        """Minus the divergence, per pair, in nats."""
        if batch.reference is None:
            what = "'kl' compares with the clean run, but 'batch.reference' holds no log-probabilities of it."
            raise BadParameterError(what, "Call batch = with_reference(model, metric, batch) from circuitlab.execute first.")
        clean = batch.reference.to(logits)
        return (clean.exp() * (logits.log_softmax(-1) - clean)).sum(-1)


METRICS: dict[str, type[Any]] = {cls.name: cls for cls in (LogitDiff, ProbDiff, AnswerLogit, LogProb, KLDivergence)}
"""Every metric by name."""


def get_metric(name: str | Metric) -> Any:
    """The metric of this name with its default parameters; an instance is returned as it is.

    Raises
    ------
    UnknownNameError
        If there is no such metric; the closest known name is suggested.

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
    """All parameters of a metric, with their values.

    Examples
    --------
    >>> metric_params(LogitDiff())
    {'reduce': 'mean'}
    """
    return dataclasses.asdict(metric)  # type: ignore[call-overload]


def correct(logits: Float[Tensor, "pair vocab"], batch: ContrastBatch) -> list[bool]:
    """Whether the most probable answer has a larger logit than every foil and distractor, per pair.

    Examples
    --------
    >>> import torch
    >>> from circuitlab.model.batch import ContrastBatch
    >>> batch = ContrastBatch.from_tokens([[0, 1]] * 2, [[0, 2]] * 2, answers=[1, 2], foils=[2, 1])
    >>> correct(torch.tensor([[0.0, 3.0, 1.0], [0.0, 3.0, 1.0]]), batch)
    [True, False]
    """
    best = _reduce(_gather(logits, batch.answers), batch.answers, "max")
    others = _concat(batch.foils, batch.distractors)
    return (best > _reduce(_gather(logits, others), others, "max")).tolist()


def _mean_weights(ids: Int[Tensor, "pair k"]) -> tuple[Int[Tensor, "pair k"], Float[Tensor, "pair k"]]:
    present = (ids >= 0).float()
    return ids.clamp(min=0), present / present.sum(-1, keepdim=True)


def _concat(first: Tensor, second: Tensor) -> Tensor:
    import torch  # noqa: PLC0415 - commands that only name metrics must not import torch

    return torch.cat([first, second], dim=-1)
