"""Cache: one door for everything that is stored. Nothing is computed twice, nothing is half-read, nothing is deleted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, overload

from circuitlab.core.errors import ScoreFileError, StoreError
from circuitlab.core.files import quarantine, require_writable
from circuitlab.core.names import require_file_name
from circuitlab.scores.head_scores import HeadScores
from circuitlab.store.checkpoint import Checkpoint
from circuitlab.store.codecs import HEAD_SCORES, Codec

__all__ = ["Cache", "default_root"]

Identity = TypeVar("Identity")
Computed = TypeVar("Computed")
Kept = TypeVar("Kept")


def default_root() -> Path:
    """``$CIRCUITLAB_STORE``, or ``runs`` in the current folder."""
    return Path(os.environ.get("CIRCUITLAB_STORE", "runs"))


class Cache:
    """A folder of results, each found by what it depends on.

    Files follow the umask. A damaged or newer file is named in a warning, moved into ``damaged/`` and computed again; one that this user
    may not read is not damaged. Two processes that want the same result compute it once.

    Parameters
    ----------
    root : str or Path, optional
        The folder; made when the first result is stored. `default_root` otherwise.

    Examples
    --------
    >>> cache = Cache("runs")
    >>> cache.list()  # run ids of stored scores  # doctest: +SKIP
    >>> cache.read("0123456789abcdef")  # the scores of one  # doctest: +SKIP
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r}): {len(self.list())} runs"

    def path(self, identity: Identity, codec: Codec[Identity, Any, Any] = HEAD_SCORES) -> Path:  # type: ignore[assignment]
        """Where a result lies, or would lie."""
        return self.root / codec.folder / f"{codec.name(identity)}{codec.suffix}"

    def list(self, codec: Codec[Any, Any, Any] = HEAD_SCORES) -> list[str]:
        """Names of all stored results of a kind (run ids, for scores), sorted."""
        folder = self.root / codec.folder
        names = [path.name.removesuffix(codec.suffix) for path in folder.glob(f"*{codec.suffix}")] if folder.is_dir() else []
        return sorted(name for name in names if name.isalnum())

    def has(self, identity: Identity, codec: Codec[Identity, Any, Any] = HEAD_SCORES) -> bool:  # type: ignore[assignment]
        """Whether a result is stored and, as far as can be told without reading it, whole; a damaged one is moved aside.

        Raises
        ------
        StoreError
            If this user may not read its files, which does not make them damaged.
        """
        path = self.path(identity, codec)
        if not os.access(path, os.F_OK):
            return False
        if problem := codec.problem(path):
            self._quarantine(path, codec, problem)
        return not problem

    @overload
    def read(self, identity: str) -> HeadScores: ...

    @overload
    def read(self, identity: Identity, codec: Codec[Identity, Any, Kept]) -> Kept: ...

    def read(self, identity: Any, codec: Codec[Any, Any, Any] = HEAD_SCORES) -> Any:
        """A stored result.

        Raises
        ------
        ScoreFileError
            If it is not stored, damaged, foreign, or from a newer version.
        StoreError
            If the file holds another result, or this user may not read it.
        """
        path = self.path(identity, codec)
        if not os.access(path, os.F_OK):
            what = f"There is no {path}."
            raise ScoreFileError(what, "Check the name and the store, or compute the result.")
        return codec.read(path, identity)

    def find(self, identity: Identity, codec: Codec[Identity, Any, Kept]) -> Kept | None:
        """A stored result, or None; a damaged, foreign or newer file is moved aside.

        Raises
        ------
        StoreError
            If this user may not read the file, or it holds another result.
        """
        if not self.has(identity, codec):
            return None
        path = self.path(identity, codec)
        try:
            return codec.read(path, identity)
        except ScoreFileError as error:
            self._quarantine(path, codec, str(error))
            return None

    def put(self, identity: Identity, codec: Codec[Identity, Computed, Kept], computed: Computed, *, seconds: float = 0.0) -> Kept:
        """Store a result, and give it as it will be read back; an existing file of the same result is replaced in one step.

        Raises
        ------
        StoreError
            If the disk is full or the folder cannot be written, or the codec cannot write this.
        """
        return codec.write(self.path(identity, codec), identity, computed, seconds)

    def get_or_compute(
        self, identity: Identity, codec: Codec[Identity, Computed, Kept], compute: Callable[[], Computed]
    ) -> tuple[Kept, bool]:
        """The stored result, or the computed one after storing it; also says whether it was stored before.

        Where another process is computing the same result, it is waited for.

        Parameters
        ----------
        identity
            Everything that the result depends on, as the codec takes it: a run id for scores, a mapping for documents.
        codec : Codec
            How it is written and read.
        compute : callable
            Makes the result where it is not stored.

        Raises
        ------
        StoreError
            If the folder cannot be written (before anything is computed), or a stored file not be read.
        """
        kept = self.find(identity, codec)
        if kept is not None:
            return kept, True
        path = self.path(identity, codec)
        require_writable(path.parent)
        with self.lock(path.name):
            kept = self.find(identity, codec)  # somebody else may have computed it in the meantime
            if kept is not None:
                return kept, True
            started = time.perf_counter()
            computed = compute()
            return self.put(identity, codec, computed, seconds=time.perf_counter() - started), False

    def checkpoint(self, name: str, folder: str = "partial") -> Checkpoint:
        """Where the unfinished computation of this name keeps its arrays."""
        return Checkpoint(self.root / folder / f"{require_file_name('name of a checkpoint', name, StoreError)}.npz")

    @contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of this name, which other processes respect; gives whether it is held, always true where ``wait``."""
        from filelock import FileLock, Timeout  # noqa: PLC0415 - 30 ms, and only needed for work

        folder = self.root / "locks"
        require_writable(folder)
        lock = FileLock(folder / f"{require_file_name('name of a lock', name, StoreError)}.lock", mode=0o666)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        except OSError as error:
            what = f"The lock {lock.lock_file} cannot be taken: {error.strerror or error}."
            raise StoreError(what, "Ask its owner to remove or to share it, or use a store of your own (CIRCUITLAB_STORE).") from error
        try:
            yield True
        finally:
            # Removed while it is held: whoever has waited for the removed file looks for the result first, and finds it.
            with contextlib.suppress(PermissionError):
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def _quarantine(self, path: Path, codec: Codec[Any, Any, Any], problem: str) -> None:
        quarantine(codec.files(path), self.root / codec.folder / "damaged", problem)
