"""Grade methods on models whose circuit is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from circuitlab.core.html import html_table
from circuitlab.core.progress import step
from circuitlab.workflows.planted import PlantedResult, Standing, scoreboard, standings
from circuitlab.workflows.terminal import CellProgress

__all__ = ["Scoreboard", "bench"]


@dataclass(frozen=True)
class Scoreboard:
    """How methods do on planted models.

    Parameters
    ----------
    results : tuple of PlantedResult
        One for each model and method.
    """

    results: tuple[PlantedResult, ...]

    @property
    def methods(self) -> tuple[Standing, ...]:
        """Each method's least and mean measures, beside the floors that it must reach."""
        return tuple(standings(list(self.results)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the shape of ``circuitlab bench planted --json``."""
        return {"results": msgspec.to_builtins(self.results), "methods": msgspec.to_builtins(self.methods)}

    def _repr_html_(self) -> str:
        rows = [
            [one.method, f"{one.mean['auroc']:.2f}", f"{one.least['auroc']:.2f}" if one.least else "-", str(one.n_visible)]
            for one in self.methods
        ]
        headings = ["method", "mean AUROC on all", "least where it can see", "models that it can see"]
        return html_table(f"Methods on {len({one.model for one in self.results})} planted models", headings, rows)

    def __repr__(self) -> str:
        lines = [
            f"  {one.method:26s} mean AUROC {one.mean['auroc']:.2f}"
            + (f", {one.least['auroc']:.2f} or more on the {one.n_visible} models that it can see" if one.least else ", sees no model")
            for one in self.methods
        ]
        models = len({one.model for one in self.results})
        return "\n".join([f"Scoreboard: {len(self.methods)} methods on {models} planted models", *lines])


def bench(methods: Sequence[str] = (), models: Sequence[str] = (), *, seeds: int = 5, pairs: int = 8) -> Scoreboard:
    """Grade methods on models whose circuit is known by construction.

    Parameters
    ----------
    methods, models : sequence of str
        Names of methods and of planted models; all by default.
    seeds : int
        Sets of prompts; the intervals are over these.
    pairs : int
        Prompt pairs in each set.

    Raises
    ------
    UnknownNameError
        For a method or a model that does not exist; the nearest name is suggested.

    Examples
    --------
    >>> import circuitlab as cl
    >>> cl.bench(["attribution_patching"], ["copy-mha"], seeds=2)
    Scoreboard: 1 methods on 1 planted models
      attribution_patching       mean AUROC 1.00, 1.00 or more on the 1 models that it can see
    """
    with CellProgress("planted models"):
        return Scoreboard(tuple(scoreboard(methods, models, seeds=seeds, pairs=pairs, progress=step)))
