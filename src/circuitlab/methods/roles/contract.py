"""What a role is: a frozen dataclass that measures how far every head of a model plays a part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from circuitlab.core.provenance import digest
from circuitlab.execute.contract import effective_params, weights_checked
from circuitlab.execute.needs import require
from circuitlab.scores.role_scores import RoleProvenance

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.scores.role_scores import RoleScores

__all__ = ["Role", "RoleKind", "measured", "role_provenance", "running"]

_Call = TypeVar("_Call", bound=Callable[..., Any])

RoleKind: TypeAlias = Literal["attention", "weights", "behaviour"]


@runtime_checkable
class Role(Protocol):
    """A frozen dataclass that is called with a model and gives one value per head, with what chance gives.

    Class variables
    ---------------
    name : str
        The name the command line and the store use; base classes of roles have none.
    estimand : str
        In words, what the value estimates.
    units : str
        Of the value.
    threshold : float
        The least value that earns the role, if it also stands clear of chance; from the paper where it gives one.
    null : str
        In words, what values are compared with.
    kind : {"attention", "weights", "behaviour"}
        What it is read from.
    needs : tuple of str
        What it asks of the model, by the names of `circuitlab.execute.needs.NEEDS`.
    cost : str
        Forward passes, or "weights alone".
    cite : tuple of str
        BibTeX keys.

    Notes
    -----
    What values depend on beside the parameters and the model (token ids that are run, lists of words) is told by an optional method
    ``inputs(model)``, as plain data: a stored result is found by it, before anything is run. A role whose values have a smallest and a
    largest possible one has a class variable ``within``, such as (0.0, 1.0): intervals stay inside. A role that takes minutes on a small
    model has a class variable ``by_default = False``, and is measured only where it is named. Where products of weights take most of its
    time, an optional method ``work(model)`` gives the number of multiplications, from which its duration is announced.
    """

    name: ClassVar[str]
    estimand: ClassVar[str]
    units: ClassVar[str]
    threshold: ClassVar[float]
    null: ClassVar[str]
    kind: ClassVar[RoleKind]
    needs: ClassVar[tuple[str, ...]]
    cost: ClassVar[str]
    cite: ClassVar[tuple[str, ...]]

    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `ModelError` before any work where the model lacks what the role needs."""
        ...


def role_provenance(role: Role, model: Model, sample: str = "", tokens: object = None) -> RoleProvenance:
    """Where a role's values come from; ``tokens`` are what was run, as nested lists of ids."""
    return RoleProvenance(
        role=role.name,
        params=effective_params(role),
        estimand=role.estimand,
        units=role.units,
        threshold=role.threshold,
        null=role.null,
        sample=sample,
        digest="" if tokens is None else digest(tokens),
        model=model.spec,
        cite=role.cite,
        kind=role.kind,
        within=getattr(role, "within", None),
    )


@contextmanager
def running(model: Model) -> Iterator[None]:
    """Torch's own modes inside, whatever the caller has set, without gradients; the model's weights are looked at once before."""
    import torch  # noqa: PLC0415 - listing roles must not load torch

    from circuitlab.model.hooks import full_precision  # noqa: PLC0415

    with torch.inference_mode(mode=False), torch.no_grad(), full_precision():
        model.refresh()
        token = weights_checked.set(True)
        try:
            yield
        finally:
            weights_checked.reset(token)


def measured(run: _Call) -> _Call:
    """A role's call that first refuses what the model lacks, and then runs as `running` says."""

    @functools.wraps(run)
    def call(role: Any, model: Model) -> Any:
        with running(model):
            require(role, model)
            return run(role, model)

    return cast("_Call", call)
