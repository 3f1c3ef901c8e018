"""Taps that do nothing, run two taps in turn, record what changed, or refuse edits at some sites."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from circuitlab.core.errors import ModelError
from circuitlab.model.sites import Site

if TYPE_CHECKING:
    from torch import Tensor

    from circuitlab.model.places import Tap

__all__ = ["NO_SUM", "STREAM", "Refusing", "Watched", "in_turn", "untouched"]

STREAM = frozenset({Site.RESID_PRE, Site.ATTN_OUT, Site.RESID_MID, Site.RESID_POST})
"""Sites whose edits break the sum: the residual stream is then not what the embedding, heads and MLPs write."""

NO_SUM = "so that the residual stream is no longer the sum of what heads, MLPs and the embedding write"
"""The reason why a computation that needs that sum refuses edits of `STREAM`."""


def untouched(_site: Site, _layer: int, value: Tensor) -> Tensor:
    """The tap of an unedited run."""
    return value


def in_turn(first: Tap | None, second: Tap | None) -> Tap | None:
    """The tap that calls ``first`` and then ``second`` on its result; None if both are None."""
    if first is None or second is None:
        return first or second

    def both(site: Site, layer: int, value: Tensor) -> Tensor:
        return second(site, layer, first(site, layer, value))

    return both


@dataclass(eq=False)
class Watched:
    """A tap that records where it changed a value.

    Parameters
    ----------
    tap : Tap
        The tap that is called.
    changed : set of (Site, int)
        Sites and layers that were changed; filled during the run.
    """

    tap: Tap
    changed: set[tuple[Site, int]] = field(default_factory=set)

    def __call__(self, site: Site, layer: int, value: Tensor) -> Tensor:
        """The value that the tap returns."""
        new = self.tap(site, layer, value)
        if new is not value:
            self.changed.add((site, layer))
        return new


@dataclass(frozen=True, eq=False)
class Refusing:
    """A tap that raises `ModelError` where it would change a value at some sites.

    Parameters
    ----------
    tap : Tap
        The tap that is called.
    sites : collection of Site
        Sites at which a change is refused.
    why : str
        A clause that follows the name of the edit in the message.
    """

    tap: Tap
    sites: Collection[Site]
    why: str

    def __call__(self, site: Site, layer: int, value: Tensor) -> Tensor:
        """The value that the tap returns."""
        new = self.tap(site, layer, value)
        if new is not value and site in self.sites:
            what = f"This model has an edit of {site.value} in layer {layer}, {self.why}."
            raise ModelError(what, "Remove that edit, or use activation_patching, which is exact with every edit.")
        return new
