"""Taps put together: nothing, one after the other, watched, and standing edits that are refused at some sites."""

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
"""Sites whose edits make the residual stream another thing than the sum of what heads, MLPs and the embedding write."""

NO_SUM = "so that the residual stream is no longer the sum of what heads, MLPs and the embedding write"
"""Why a computation that needs that sum refuses edits of `STREAM`."""


def untouched(_site: Site, _layer: int, value: Tensor) -> Tensor:
    """The tap of an unedited run."""
    return value


def in_turn(first: Tap | None, second: Tap | None) -> Tap | None:
    """The tap that lets ``first`` edit a value, and then ``second``; None where there are none."""
    if first is None or second is None:
        return first or second

    def both(site: Site, layer: int, value: Tensor) -> Tensor:
        return second(site, layer, first(site, layer, value))

    return both


@dataclass(eq=False)
class Watched:
    """A tap that remembers where it changed something.

    Parameters
    ----------
    tap : Tap
    changed : set of (Site, int)
        Sites and layers; filled by the run.
    """

    tap: Tap
    changed: set[tuple[Site, int]] = field(default_factory=set)

    def __call__(self, site: Site, layer: int, value: Tensor) -> Tensor:
        """What the tap makes of a value."""
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
    sites : collection of Site
    why : str
        A clause that follows the name of the edit.
    """

    tap: Tap
    sites: Collection[Site]
    why: str

    def __call__(self, site: Site, layer: int, value: Tensor) -> Tensor:
        """What the tap makes of a value."""
        new = self.tap(site, layer, value)
        if new is not value and site in self.sites:
            what = f"This model has an edit of {site.value} in layer {layer}, {self.why}."
            raise ModelError(what, "Leave that edit out, or use activation_patching, which is exact with every edit.")
        return new
