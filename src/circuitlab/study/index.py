"""The index of a study: which stored run holds each finished cell. Figures are built from it without loading a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from circuitlab.errors import StoreError
from circuitlab.names import require_file_name
from circuitlab.store import RunStore
from circuitlab.store.writable import require_writable
from circuitlab.study.spec import Cell, StudySpec

__all__ = ["StudyIndex"]


class StudyIndex:
    """Cell keys and run ids of one study, in ``<store>/studies/<study>.json``.

    Parameters
    ----------
    store : RunStore
        Where the runs are.
    study : StudySpec
        Whose cells.
    """

    def __init__(self, store: RunStore, study: StudySpec) -> None:
        require_file_name("study id", study.id)
        self.store, self.study = store, study
        self.path = store.root / "studies" / f"{study.id}.json"

    def finished(self, cell: Cell) -> str | None:
        """Run id of a cell whose run is stored and whole, or None."""
        run_id = self._read().get(self.study.key(cell))
        return run_id if run_id and self.store.has(run_id) else None

    def record(self, cell: Cell, run_id: str) -> None:
        """Note that a cell is finished; written in one step, under a lock that other shards respect."""
        from circuitlab.scores.netcdf import replace_file  # noqa: PLC0415

        require_writable(self.path.parent)
        with self._locked():
            entries = self._read() | {self.study.key(cell): run_id}
            text = msgspec.json.format(msgspec.json.encode(entries), indent=2)
            replace_file(self.path, lambda target: target.write_bytes(text))

    def require(self, cells: list[Cell], command: str) -> list[tuple[Cell, str]]:
        """Every cell with its run id, in the order given.

        Raises
        ------
        StoreError
            If some are not finished; they are named with the command to run.
        """
        found = [(cell, self.finished(cell)) for cell in cells]
        if missing := [cell.label for cell, run_id in found if run_id is None]:
            what = f"{len(missing)} of {len(cells)} cells of study {self.study.id!r} are not finished: {', '.join(missing)}."
            raise StoreError(what, f"Run `{command}`; finished cells are kept.")
        return [(cell, run_id) for cell, run_id in found if run_id is not None]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock  # noqa: PLC0415

        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire()
        except OSError as error:
            what = f"The lock {lock.lock_file} of study {self.study.id!r} cannot be taken: {error.strerror or error}."
            fix = "The run is stored. Ask the lock's owner to remove it or to share it, or use a store of your own (CIRCUITLAB_STORE)."
            raise StoreError(what, fix) from error
        try:
            yield
        finally:
            lock.release()

    def _read(self) -> dict[str, str]:
        from circuitlab.scores.netcdf import read_bytes  # noqa: PLC0415

        data = read_bytes(self.path)
        if data is None:
            return {}
        try:
            return msgspec.json.decode(data, type=dict[str, str])
        except (msgspec.MsgspecError, RecursionError) as error:
            what = f"The study index {self.path} is damaged: {error}."
            raise StoreError(what, "Remove it; the runs stay, and `study run` finds them again.") from error
