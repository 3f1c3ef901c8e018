"""Several interventions together: composed into one, and applied in every run of an edited model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from circuitlab.core.errors import BadParameterError, EditDidNotFireError
from circuitlab.core.provenance import digest
from circuitlab.model.interventions.base import Intervention

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.places import Places, Tap
    from circuitlab.model.runner import ReadableModel
    from circuitlab.model.sites import Site

__all__ = ["Applied", "Composed", "Standing", "compose"]


@dataclass(frozen=True, eq=False)
class Composed(Intervention):
    """Interventions applied in order; at a site that two of them edit, the later one sees the value that the earlier one wrote.

    Parameters
    ----------
    parts : tuple of Intervention
        The interventions in order.

    Examples
    --------
    >>> from circuitlab.model.interventions import Knockout, Scale
    >>> both = Composed((Knockout("a0.h1"), Scale("m1", 0.5)))
    >>> both.describe()
    'knock out (zero) a0.h1; scale by 0.5 m1'
    """

    kind: ClassVar[str] = "composed"
    parts: tuple[Intervention, ...]

    @property
    def targets(self) -> frozenset[tuple[Site, int]]:
        """Sites and layers whose values any of them changes."""
        return frozenset().union(*(part.targets for part in self.parts))

    def check(self, model: ReadableModel) -> None:
        """Raise unless a model can be edited with every part."""
        for part in self.parts:
            part.check(model)

    def resolved(self, model: ReadableModel) -> Composed:
        """Every part with the values that it needs of the model; each is computed on the model without the other parts."""
        return Composed(tuple(part.resolved(model) for part in self.parts))

    def tap(self, places: Places) -> Tap:
        """The taps of the parts, in order."""
        return _in_order([(part.targets, part.tap(places)) for part in self.parts])

    def identity(self) -> dict[str, Any]:
        """The identity of every part, in order."""
        return {"kind": self.kind, "parts": [part.identity() for part in self.parts]}

    def describe(self) -> str:
        """A short description of every part."""
        return "; ".join(part.describe() for part in self.parts)


def compose(interventions: Sequence[Intervention]) -> Composed:
    """Combine interventions into one that applies them in order.

    Raises
    ------
    BadParameterError
        If there are none, or one is not an intervention.

    Examples
    --------
    >>> from circuitlab.model.interventions import Knockout, Scale
    >>> [part.kind for part in compose([Knockout("a0.h1"), Scale("m1", 0.5)]).parts]
    ['knockout', 'scale']
    """
    return Composed(_flat(interventions))


def _flat(interventions: Sequence[Intervention]) -> tuple[Intervention, ...]:
    out: list[Intervention] = []
    for part in interventions:
        if not isinstance(part, Intervention):
            raise BadParameterError(f"{part!r} is not an intervention.", "Use those of circuitlab.interventions.")
        out += _flat(part.parts) if isinstance(part, Composed) else [part]
    if not out:
        raise BadParameterError("No intervention was given.", "Give at least one.")
    return tuple(out)


def _in_order(taps: Sequence[tuple[frozenset[tuple[Site, int]], Tap]]) -> Tap:
    def tap(site: Site, layer: int, value: Tensor) -> Tensor:
        for targets, tap_of_site in taps:
            if (site, layer) in targets:
                value = tap_of_site(site, layer, value)
        return value

    return tap


@dataclass(eq=False)
class Applied:
    """Where interventions were applied in a run.

    Parameters
    ----------
    interventions : sequence of Intervention
        The interventions, in order.
    met, changed : list of set of (Site, int)
        For each intervention, the sites and layers at which it was called, and those at which it changed a value.

    Examples
    --------
    >>> from circuitlab.model.interventions import Scale
    >>> applied = Applied([Scale("m1", 0.5)])  # no run has met it yet
    >>> try:
    ...     applied.check()
    ... except EditDidNotFireError as error:
    ...     error.what
    '1 of 1 interventions never met their site (scale by 0.5 m1: mlp_out of layer 1).'
    """

    interventions: Sequence[Intervention]
    met: list[set[tuple[Site, int]]] = field(init=False)
    changed: list[set[tuple[Site, int]]] = field(init=False)

    def __post_init__(self) -> None:
        self.met = [set() for _ in self.interventions]
        self.changed = [set() for _ in self.interventions]

    def watch(self, index: int, tap: Tap) -> Tap:
        """The tap of one intervention, with a record of where it was called and where it changed a value."""

        def watched(site: Site, layer: int, value: Tensor) -> Tensor:
            self.met[index].add((site, layer))
            new = tap(site, layer, value)
            if new is not value:
                self.changed[index].add((site, layer))
            return new

        return watched

    def check(self) -> None:
        """Raise `EditDidNotFireError` unless every intervention was called at every site that it edits."""
        missed = [
            (intervention.describe(), sorted(intervention.targets - met, key=str))
            for intervention, met in zip(self.interventions, self.met, strict=True)
        ]
        missed = [(name, targets) for name, targets in missed if targets]
        if missed:
            shown = "; ".join(
                f"{name}: {', '.join(f'{site.value} of layer {layer}' for site, layer in targets)}" for name, targets in missed
            )
            what = f"{len(missed)} of {len(self.interventions)} interventions never met their site ({shown})."
            raise EditDidNotFireError(what, "Run `circuitlab doctor` on this model; its family may not be supported.")


class Standing:
    """The interventions of an edited model: ``standing(places)`` is the tap that applies them.

    Parameters
    ----------
    interventions : sequence of Intervention
        The interventions in order, bound to a model if they need one (`Intervention.resolved`).

    Examples
    --------
    >>> from circuitlab.model.interventions import Knockout, Scale
    >>> Standing([Knockout("a0.h1"), Scale("m1", 0.5)])
    Standing(knock out (zero) a0.h1; scale by 0.5 m1)
    """

    def __init__(self, interventions: Sequence[Intervention]) -> None:
        self.interventions = _flat(interventions)
        self.targets = frozenset[tuple["Site", int]]().union(*(intervention.targets for intervention in self.interventions))
        self._watching: list[Applied] = []

    def __repr__(self) -> str:
        return f"Standing({self.describe()})"

    @property
    def touches(self) -> frozenset[Site]:
        """The sites that are edited in at least one layer."""
        return frozenset(site for site, _ in self.targets)

    def __call__(self, places: Places) -> Tap:
        """The tap that applies every intervention to the prompts and positions of a run, in order.

        Raises
        ------
        EditDidNotFireError
            If a position lies outside a prompt.
        BadParameterError, UnknownNameError
            If an intervention cannot be applied to these prompts.
        """
        taps = [intervention.tap(places) for intervention in self.interventions]
        if self._watching:
            taps = [self._watching[-1].watch(index, tap) for index, tap in enumerate(taps)]
        return _in_order([(intervention.targets, tap) for intervention, tap in zip(self.interventions, taps, strict=True)])

    @contextmanager
    def watched(self) -> Iterator[Applied]:
        """Record a run; at its end every intervention must have been called at every site that it edits.

        Raises
        ------
        EditDidNotFireError
            If one was not.
        """
        applied = Applied(self.interventions)
        self._watching.append(applied)
        try:
            yield applied
        finally:
            self._watching.remove(applied)
        applied.check()

    def identity(self) -> list[dict[str, Any]]:
        """The identity of every intervention, in order; tensors by the hash of their current values."""
        return [intervention.identity() for intervention in self.interventions]

    def digest(self) -> str:
        """SHA-256 of the identity."""
        return digest(self.identity())

    def describe(self) -> str:
        """A short description of all edits."""
        return "; ".join(intervention.describe() for intervention in self.interventions)
