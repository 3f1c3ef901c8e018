"""Several interventions together: composed, and standing in every run of an edited model."""

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
    """Interventions made one after the other; where two meet at one site, the later one sees what the earlier one made.

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
        """Every part with all that it needs of a model; each is computed on the model without the others."""
        return Composed(tuple(part.resolved(model) for part in self.parts))

    def tap(self, places: Places) -> Tap:
        """The taps of the parts, one after the other."""
        return _in_order([(part.targets, part.tap(places)) for part in self.parts])

    def identity(self) -> dict[str, Any]:
        """The identity of every part, in order."""
        return {"kind": self.kind, "parts": [part.identity() for part in self.parts]}

    def describe(self) -> str:
        """What the parts do, in few words."""
        return "; ".join(part.describe() for part in self.parts)


def compose(interventions: Sequence[Intervention]) -> Composed:
    """One intervention out of several, made in the given order.

    Raises
    ------
    BadParameterError
        If there are none, or one is no intervention.

    Examples
    --------
    >>> from circuitlab.model.interventions import Knockout, Scale
    >>> [part.kind for part in compose([Knockout("a0.h1"), Scale("m1", 0.5)]).parts]
    ['knockout', 'scale']
    """
    return Composed(_flat(interventions))


def _flat(interventions: Sequence[Intervention]) -> tuple[Intervention, ...]:
    out: list[Intervention] = []
    for one in interventions:
        if not isinstance(one, Intervention):
            raise BadParameterError(f"{one!r} is no intervention.", "Use those of circuitlab.interventions.")
        out += _flat(one.parts) if isinstance(one, Composed) else [one]
    if not out:
        raise BadParameterError("There is no intervention to make.", "Give at least one.")
    return tuple(out)


def _in_order(taps: Sequence[tuple[frozenset[tuple[Site, int]], Tap]]) -> Tap:
    def tap(site: Site, layer: int, value: Tensor) -> Tensor:
        for targets, one in taps:
            if (site, layer) in targets:
                value = one(site, layer, value)
        return value

    return tap


@dataclass(eq=False)
class Applied:
    """What interventions did in a run.

    Parameters
    ----------
    interventions : sequence of Intervention
    met, changed : list of set of (Site, int)
        For each intervention, the sites and layers whose values it was shown, and those where it changed one.

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
        """The tap of one intervention, remembered where it was called and what it did."""

        def watched(site: Site, layer: int, value: Tensor) -> Tensor:
            self.met[index].add((site, layer))
            new = tap(site, layer, value)
            if new is not value:
                self.changed[index].add((site, layer))
            return new

        return watched

    def check(self) -> None:
        """Raise `EditDidNotFireError` unless every intervention met every site that it edits."""
        missed = [(one.describe(), sorted(one.targets - met, key=str)) for one, met in zip(self.interventions, self.met, strict=True)]
        missed = [(name, targets) for name, targets in missed if targets]
        if missed:
            shown = "; ".join(f"{name}: {', '.join(f'{site.value} of layer {layer}' for site, layer in some)}" for name, some in missed)
            what = f"{len(missed)} of {len(self.interventions)} interventions never met their site ({shown})."
            raise EditDidNotFireError(what, "Run `circuitlab doctor` on this model; its family may not be supported.")


class Standing:
    """The interventions of an edited model: ``standing(places)`` is the tap that makes them.

    Parameters
    ----------
    interventions : sequence of Intervention
        In order, bound to a model where they need one (`Intervention.resolved`).

    Examples
    --------
    >>> from circuitlab.model.interventions import Knockout, Scale
    >>> Standing([Knockout("a0.h1"), Scale("m1", 0.5)])
    Standing(knock out (zero) a0.h1; scale by 0.5 m1)
    """

    def __init__(self, interventions: Sequence[Intervention]) -> None:
        self.interventions = _flat(interventions)
        self.targets = frozenset[tuple["Site", int]]().union(*(one.targets for one in self.interventions))
        self._watching: list[Applied] = []

    def __repr__(self) -> str:
        return f"Standing({self.describe()})"

    @property
    def touches(self) -> frozenset[Site]:
        """The sites that are edited in some layer."""
        return frozenset(site for site, _ in self.targets)

    def __call__(self, places: Places) -> Tap:
        """The tap that makes every intervention on the prompts and positions of a run, in order.

        Raises
        ------
        EditDidNotFireError
            If a position lies outside a prompt.
        BadParameterError, UnknownNameError
            If one cannot be made on these prompts.
        """
        taps = [one.tap(places) for one in self.interventions]
        if self._watching:
            taps = [self._watching[-1].watch(index, tap) for index, tap in enumerate(taps)]
        return _in_order([(one.targets, tap) for one, tap in zip(self.interventions, taps, strict=True)])

    @contextmanager
    def watched(self) -> Iterator[Applied]:
        """Watch a run; at its end every intervention must have met every site that it edits.

        Raises
        ------
        EditDidNotFireError
            If one has not.
        """
        applied = Applied(self.interventions)
        self._watching.append(applied)
        try:
            yield applied
        finally:
            self._watching.remove(applied)
        applied.check()

    def identity(self) -> list[dict[str, Any]]:
        """The identity of every intervention, in order; tensors by hash, as they are now."""
        return [one.identity() for one in self.interventions]

    def digest(self) -> str:
        """SHA-256 of the identity."""
        return digest(self.identity())

    def describe(self) -> str:
        """What is edited, in few words."""
        return "; ".join(one.describe() for one in self.interventions)
