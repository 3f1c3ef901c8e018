"""What a method is, and how its runs are identified."""

from __future__ import annotations

import contextvars
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from circuitlab.core.errors import AdditivityError, BadParameterError
from circuitlab.core.provenance import NO_METRIC, WEIGHTS_ALONE, Provenance
from circuitlab.metrics import metric_params
from circuitlab.scores.intervals import no_pairs

if TYPE_CHECKING:
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = [
    "Method",
    "effective_params",
    "fields_as_tuples",
    "provenance_of",
    "require_additive",
    "require_linear",
    "require_prompts",
    "weights_checked",
    "weights_only",
]


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass that scores the nodes of a model on a batch.

    Class variables
    ---------------
    name : str
        Its name for the command line and the store.
    estimand : str
        What the scores estimate, in words.
    additive : bool
        Whether the scores (with the bias) sum to ``total`` on every pair.
    needs : tuple of str
        What it needs of the model, by the names in `circuitlab.execute.needs.NEEDS`; a model that lacks one is refused before work starts.
    cost : str
        Forward passes as a function of pairs, layers and heads.
    cite : tuple of str
        BibTeX keys.

    Notes
    -----
    A method whose scores are of another kind declares it by optional class variables, and `check_method` tests other laws. ``pooled =
    True``: the score of a pair depends on the other pairs of the batch (it must not change when every pair occurs twice). ``causal =
    False``: scores are non-negative and measure what a node writes, not its effect on the answer (a node that nothing reads can score,
    too). ``in_metric_units = False``: scores do not scale with the logits. ``weights_only = True``: no prompt is run and no metric read;
    such a method may be called with the model alone, its scores have no pair axis, and its class variable ``units`` names their units. An
    optional property ``more_needs`` names what only some parameter values need of a model, in the names of ``needs``.

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


def weights_only(method: Method | type[Method]) -> bool:
    """Whether a method reads weights alone, so that prompts, pairs and metrics have no part in its scores."""
    return bool(getattr(method, "weights_only", False))


def require_prompts(method: Method, wanted: str) -> None:
    """Raise `BadParameterError` for a method that reads weights alone; ``wanted`` is what its scores lack, such as a gap.

    Asked before the method is run, where what follows needs prompt pairs.
    """
    if weights_only(method):
        raise BadParameterError(*no_pairs(method.name, wanted))


def effective_params(method: Any) -> dict[str, Any]:
    """Every parameter of a method or role that can change a score, defaults included.

    Fields declared with ``metadata={"identity": False}`` (such as chunk sizes) are left out: they change the cost of a run and not its
    result.
    """
    fields = dataclasses.fields(method)
    values = {f.name: getattr(method, f.name) for f in fields if f.metadata.get("identity", True)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def fields_as_tuples(built: Any) -> None:
    """Turn strings and lists in a dataclass' fields of type ``tuple[str, ...]`` into tuples: ``parts="heads"`` becomes ``("heads",)``."""
    for entry in dataclasses.fields(built):
        value = getattr(built, entry.name)
        if str(entry.type).startswith("tuple[str") and isinstance(value, str | list):
            object.__setattr__(built, entry.name, (value,) if isinstance(value, str) else tuple(value))


weights_checked: contextvars.ContextVar[bool] = contextvars.ContextVar("weights checked", default=False)
"""Whether the model's weights were checked for changes when the running method began; reading every weight takes a tenth of a second."""


def provenance_of(method: Method, model: Model, batch: ContrastBatch | None, metric: Metric | None) -> Provenance:
    """The provenance of a run. It is known before the run starts, so that a stored run can be found instead.

    The model's weights are checked for changes first (once per method call): a changed model has another identity. The provenance of a
    method that reads weights alone contains neither the batch nor the metric.
    """
    if not weights_checked.get():
        model.refresh()
    read: dict[str, Any]
    if weights_only(method):
        read = {"metric": NO_METRIC, "metric_params": {}, "units": method.units, "task": WEIGHTS_ALONE}  # type: ignore[attr-defined]
    elif batch is None or metric is None:
        what = f"{method.name!r} runs prompts and reads a metric, and none is given."
        raise BadParameterError(what, "Give a batch and a metric; only methods that read weights alone do without.")
    else:
        read = {"metric": metric.name, "metric_params": metric_params(metric), "units": metric.units, "task": batch.task}
    return Provenance(
        method=method.name,
        params=effective_params(method),
        estimand=method.estimand,
        additive=method.additive,
        model=model.spec,
        cite=method.cite,
        **read,
    )


def require_linear(method: Method, metric: Metric) -> None:
    """Raise `BadParameterError` unless the metric is linear in the logits."""
    if not metric.linear:
        what = f"{method.name!r} needs a metric that is linear in the logits; {metric.name!r} with {metric_params(metric)} is not."
        raise BadParameterError(what, "Use metric='logit_diff' with reduce='mean'.")


_RESIDUAL = {"float64": 1e-3, "float32": 1e-3}
"""Largest residual of an additive method, as a share of the total."""

_RESIDUAL_16_BIT = 0.2
"""The same for models whose residual stream is rounded to 16 bits."""


def require_additive(scores: HeadScores) -> HeadScores:
    """Return the scores of an additive method; raise `AdditivityError` if scores and bias do not sum to the total on some pair.

    The residual may be 1e-3 of the total, or of 1 if the total is smaller; more in 16-bit models.
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
            what, "`circuitlab doctor` shows which part of this model is not as assumed; activation_patching does not need a sum."
        )
    return scores
