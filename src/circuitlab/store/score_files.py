"""A folder of score files of one kind, each named by its run's identity: written whole, checked before it is believed."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from circuitlab.core.errors import ScoreFileError, StoreError
from circuitlab.core.files import quarantine, require_writable
from circuitlab.core.names import require_file_name
from circuitlab.core.provenance import Provenance
from circuitlab.scores.edge_scores import EdgeScores
from circuitlab.scores.head_scores import HeadScores

__all__ = ["ScoreFiles", "Sidecar"]

Scores = TypeVar("Scores", HeadScores, EdgeScores)


class Sidecar(msgspec.Struct, frozen=True):
    """What lies beside each run for people and for quick listing: its provenance and the hash of its file."""

    run_id: str
    sha256: str
    provenance: Provenance


class ScoreFiles(ABC, Generic[Scores]):
    """Score files of one kind: ``<run_id><suffix>`` and a JSON file beside each.

    Parameters
    ----------
    root : Path
        The folder; made when the first run is stored.
    """

    suffix = ".nc"

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def load(self, path: Path) -> Scores:
        """Read one file."""

    def path(self, run_id: str) -> Path:
        """Where the scores of a run lie."""
        if not (run_id.isalnum() and run_id.isascii()):
            what = f"{run_id!r} is no run id."
            raise StoreError(what, "Run ids are hexadecimal digits.")
        require_file_name("run id", run_id, StoreError)
        return self.root / f"{run_id}{self.suffix}"

    def list(self) -> list[str]:
        """Ids of every stored run, sorted."""
        names = [path.name.removesuffix(self.suffix) for path in self.root.glob(f"*{self.suffix}")] if self.root.is_dir() else []
        return sorted(name for name in names if name.isalnum())

    def has(self, run_id: str) -> bool:
        """Whether a run is stored and its file is byte for byte what was written; a damaged one is moved aside.

        Raises
        ------
        StoreError
            If this user may not read its files, which does not make them damaged.
        """
        if not os.access(self.path(run_id), os.F_OK):
            return False
        problem = self._problem(run_id)
        if problem:
            self._move_aside(run_id, problem)
        return not problem

    def get(self, run_id: str) -> Scores:
        """Read a run.

        Raises
        ------
        ScoreFileError
            If it is not stored, damaged, foreign, or from a newer schema.
        StoreError
            If the file holds another run.
        """
        scores = self.load(self.path(run_id))
        found = scores.provenance.run_id()
        if found != run_id:
            what = f"{self.path(run_id)} holds run {found}."
            raise StoreError(what, "Files of a store must not be renamed; move it back.")
        return scores

    def put(self, scores: Scores) -> str:
        """Store a run and return its id; an existing file of the same run is replaced in one step."""
        from circuitlab.core.files import replace_file  # noqa: PLC0415 - h5py is slow to import

        run_id = scores.provenance.run_id()
        path = scores.save(self.path(run_id))
        sidecar = Sidecar(run_id, _sha256(path), scores.provenance)
        text = msgspec.json.format(msgspec.json.encode(sidecar), indent=2)
        replace_file(path.with_suffix(".json"), lambda target: target.write_bytes(text))
        return run_id

    def get_or_compute(self, run_id: str, compute: Callable[[], Scores]) -> tuple[Scores, bool]:
        """The stored run, or the computed one after storing it; also says whether it was stored before.

        A damaged, foreign or newer file is named in a warning, moved into ``damaged/``, and the run computed again.

        Raises
        ------
        StoreError
            If the folder cannot be written (before anything is computed), or a stored file not be read.
        """
        if self.has(run_id):
            try:
                return self.get(run_id), True
            except ScoreFileError as error:
                self._move_aside(run_id, str(error))
        require_writable(self.root)
        scores = compute()
        found = scores.provenance.run_id()
        if found != run_id:
            what = f"Run {run_id} was asked for, and {found} was computed."
            raise StoreError(what, "The method changed its parameters while it ran; report this.")
        self.put(scores)
        return scores, False

    def _problem(self, run_id: str) -> str:
        """What is wrong with a stored run's file, judged from its sidecar without reading the scores; "" if nothing."""
        from circuitlab.core.files import read_bytes  # noqa: PLC0415 - h5py is slow to import

        path = self.path(run_id)
        beside, data = read_bytes(path.with_suffix(".json")), read_bytes(path)
        if beside is None or data is None:
            return ""  # killed between the two writes: the scores themselves carry a checksum and are checked when read
        try:
            sidecar = msgspec.json.decode(beside, type=Sidecar)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            return f"its sidecar cannot be read ({error})"
        return "" if sidecar.sha256 == hashlib.sha256(data).hexdigest() else "its bytes are not the ones that were written"

    def _move_aside(self, run_id: str, problem: str) -> None:
        path = self.path(run_id)
        quarantine((path, path.with_suffix(".json")), self.root / "damaged", problem)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
