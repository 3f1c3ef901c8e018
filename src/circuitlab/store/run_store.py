"""RunStore: one run, one file, named by the run's identity, so that nothing is computed twice and nothing is half-read."""

from __future__ import annotations

import os
from pathlib import Path

from circuitlab.core.errors import StoreError
from circuitlab.core.names import require_file_name
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.scores.head_scores import HeadScores
from circuitlab.store.documents import DocumentStore
from circuitlab.store.partial import PartialRun
from circuitlab.store.score_files import ScoreFiles

__all__ = ["EdgeRunStore", "RunStore", "default_root"]


def default_root() -> Path:
    """``$CIRCUITLAB_STORE``, or ``runs`` in the current folder."""
    return Path(os.environ.get("CIRCUITLAB_STORE", "runs"))


class EdgeRunStore(ScoreFiles[EdgeScores]):
    """Scores of edges, beside the scores of nodes of the same run: ``<run_id>.edges.nc`` and ``<run_id>.edges.json``."""

    suffix = ".edges.nc"

    def load(self, path: Path) -> EdgeScores:
        """Read one file."""
        return EdgeScores.load(path)


class RunStore(ScoreFiles[HeadScores]):
    """A folder of runs: ``<run_id>.nc`` with the scores and ``<run_id>.json`` beside it.

    Parameters
    ----------
    root : str or Path, optional
        The folder; made when the first run is stored. `default_root` otherwise.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        super().__init__(Path(root) if root is not None else default_root())

    def load(self, path: Path) -> HeadScores:
        """Read one file."""
        return HeadScores.load(path)

    @property
    def edges(self) -> EdgeRunStore:
        """Scores of edges in the same folder."""
        return EdgeRunStore(self.root)

    def documents(self, kind: str) -> DocumentStore:
        """Results made from runs, such as ``"evaluations"``, in a folder of that name."""
        return DocumentStore(self.root / require_file_name("kind of results", kind, StoreError))

    def partial(self, run_id: str) -> PartialRun:
        """Where an unfinished run keeps the rows it has finished."""
        return PartialRun(self.path(run_id).parent / "partial" / f"{run_id}.npz")
