"""bench: grade methods on models whose circuit is known."""

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
    """The grades of methods on planted models.

    Parameters
    ----------
    results : tuple of PlantedResult
        One result for each model and method.
    """

    results: tuple[PlantedResult, ...]

    @property
    def methods(self) -> tuple[Standing, ...]:
        """Each method's smallest and mean measures, with the floors that they must reach."""
        return tuple(standings(list(self.results)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, in the shape of ``circuitlab bench planted --json``."""
        return {"results": msgspec.to_builtins(self.results), "methods": msgspec.to_builtins(self.methods)}

    def _repr_html_(self) -> str:
        rows = [
            [entry.method, f"{entry.mean['auroc']:.2f}", f"{entry.least['auroc']:.2f}" if entry.least else "-", str(entry.n_visible)]
            for entry in self.methods
        ]
        headings = ["method", "mean AUROC on all", "least where it can see", "models that it can see"]
        return html_table(f"Methods on {len({entry.model for entry in self.results})} planted models", headings, rows)

    def __repr__(self) -> str:
        lines = [
            f"  {entry.method:26s} mean AUROC {entry.mean['auroc']:.2f}"
            + (
                f", {entry.least['auroc']:.2f} or more on the {entry.n_visible} models that it can see"
                if entry.least
                else ", sees no model"
            )
            for entry in self.methods
        ]
        models = len({entry.model for entry in self.results})
        return "\n".join([f"Scoreboard: {len(self.methods)} methods on {models} planted models", *lines])


def bench(methods: Sequence[str] = (), models: Sequence[str] = (), *, seeds: int = 5, pairs: int = 8) -> Scoreboard:
    """Grade methods on models whose circuit is known by construction.

    Parameters
    ----------
    methods, models : sequence of str
        Names of methods and of planted models; all by default.
    seeds : int
        Number of sets of prompts, over which intervals are taken.
    pairs : int
        Prompt pairs in each set.

    Returns
    -------
    Scoreboard
        The grades of every method on every model.

    Raises
    ------
    UnknownNameError
        If a method or a model does not exist; the closest name is suggested.

    Examples
    --------
    >>> import circuitlab as cl
    >>> cl.bench(["attribution_patching"], ["copy-mha"], seeds=2)
    Scoreboard: 1 methods on 1 planted models
      attribution_patching       mean AUROC 1.00, 1.00 or more on the 1 models that it can see
    """
    with CellProgress("planted models"):
        return Scoreboard(tuple(scoreboard(methods, models, seeds=seeds, pairs=pairs, progress=step)))
