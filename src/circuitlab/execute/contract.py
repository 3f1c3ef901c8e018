"""What a method is, and how its runs are identified."""

from __future__ import annotations

import contextvars
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from circuitlab.core.errors import AdditivityError, BadParameterError
from circuitlab.core.provenance import Provenance
from circuitlab.metrics import metric_params

if TYPE_CHECKING:
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = [
    "Method",
    "effective_params",
    "looked_at",
    "provenance_of",
    "require_additive",
    "require_linear",
    "take_one_as_several",
]


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass that scores the nodes of a model on a batch.

    Class variables
    ---------------
    name : str
        The name the command line and the store use.
    estimand : str
        In words, what the number estimates.
    additive : bool
        Whether the scores (with the bias) sum to ``total`` on every pair.
    needs : tuple of str
        What it asks of the model, by the names of `circuitlab.execute.needs.NEEDS`; what a model lacks is refused before work starts.
    cost : str
        Forward passes as a function of pairs, layers and heads.
    cite : tuple of str
        BibTeX keys.

    Notes
    -----
    A method whose scores are of another kind says so by optional class variables, and `check_method` asks for other laws: ``pooled =
    True``, the score of a pair depends on the other pairs of the batch (it must not change when every pair stands in it twice);
    ``causal = False``, scores are 0 or more and say what a node writes, not what that does to the answer (a node that nothing reads
    scores, too); ``in_metric_units = False``, scores do not grow with the logits. What only some of its parameters ask of a model is named
    by an optional property ``more_needs``, in the words of ``needs``.

    Examples
    --------
    >>> from circuitlab.methods import AttributionPatching
    >>> isinstance(AttributionPatching(), Method), AttributionPatching.needs
    (True, ('gradients',))
    """

    name: ClassVar[str]
    estimand: ClassVar[str]
    additive: ClassVar[bool]
    needs: ClassVar[tuple[str, ...]]
    cost: ClassVar[str]
    cite: ClassVar[tuple[str, ...]]

    @property
    def contrastive(self) -> bool:
        """Whether the scores vanish when clean and corrupt prompts are the same."""
        ...

    def __call__(self, model: Model, batch: ContrastBatch, metric: Any) -> HeadScores:
        """Score every node on every pair."""
        ...


def effective_params(method: Any) -> dict[str, Any]:
    """Every parameter of a method or role that can change a score, defaults included.

    Fields declared with ``metadata={"identity": False}`` (chunk sizes and the like) are left out: they change the cost of
    a run and not its result.
    """
    fields = dataclasses.fields(method)
    values = {f.name: getattr(method, f.name) for f in fields if f.metadata.get("identity", True)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def take_one_as_several(built: Any) -> None:
    """Make tuples of the texts and lists that were given for a dataclass' fields of several texts: ``parts="heads"`` is ``("heads",)``."""
    for entry in dataclasses.fields(built):
        value = getattr(built, entry.name)
        if str(entry.type).startswith("tuple[str") and isinstance(value, str | list):
            object.__setattr__(built, entry.name, (value,) if isinstance(value, str) else tuple(value))


looked_at: contextvars.ContextVar[bool] = contextvars.ContextVar("looked at", default=False)
"""Whether the model's weights were looked at when the running method began: reading every weight takes a tenth of a second."""


def provenance_of(method: Method, model: Model, batch: ContrastBatch, metric: Metric) -> Provenance:
    """The provenance a run will carry; known before it starts, so that a stored run can be found instead.

    The model's weights are looked at once: what has changed since they were loaded is another model.
    """
    if not looked_at.get():
        model.refresh()
    return Provenance(
        method=method.name,
        params=effective_params(method),
        estimand=method.estimand,
        additive=method.additive,
        metric=metric.name,
        metric_params=metric_params(metric),
        units=metric.units,
        model=model.spec,
        task=batch.task,
        cite=method.cite,
    )


def require_linear(method: Method, metric: Metric) -> None:
    """Raise `BadParameterError` unless the metric is linear in the logits."""
    if not metric.linear:
        what = f"{method.name!r} needs a metric that is linear in the logits; {metric.name!r} with {metric_params(metric)} is not."
        raise BadParameterError(what, "Use metric='logit_diff' with reduce='mean'.")


_RESIDUAL = {"float64": 1e-3, "float32": 1e-3}
"""Largest residual of an additive method, as a share of the total..."""

_RESIDUAL_16_BIT = 0.2
"""...and where the residual stream itself is rounded to 16 bits."""


def require_additive(scores: HeadScores) -> HeadScores:
    """Return the scores of an additive method, or raise `AdditivityError` where they and the bias do not sum to the total on some pair.

    The residual may be 1e-3 of the total, or of 1 where the total is smaller; more in 16-bit models.
    """
    about, total = scores.provenance, scores.dataset["total"].values.astype(np.float64)
    share = np.abs(scores.residual()) / np.maximum(1.0, np.abs(total))
    most = _RESIDUAL.get(about.model.dtype, _RESIDUAL_16_BIT)
    if (share > most).any():
        worst, missed = int(share.argmax()), int((share > most).sum())
        what = (
            f"The shares of {about.method!r} do not sum to the total of {about.metric} on {missed} of {len(share)} pairs of "
            f"{about.model.name} ({about.model.family}): on pair {worst} they miss {total[worst]:.4g} by {scores.residual()[worst]:.4g}."
        )
        raise AdditivityError(
            what, "`circuitlab doctor` says which part of this model is not what it seems; activation_patching needs no sum."
        )
    return scores
