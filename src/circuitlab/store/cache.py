"""Cache: the one place through which results are stored. Nothing is computed twice, read incompletely, or deleted."""

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
Stored = TypeVar("Stored")


def default_root() -> Path:
    """The folder in ``$CIRCUITLAB_STORE``, or ``runs`` in the current folder."""
    return Path(os.environ.get("CIRCUITLAB_STORE", "runs"))


class Cache:
    """A folder of results that are looked up by everything they depend on.

    Files have the permissions that the umask allows. A damaged file, or one from a newer version, is moved into ``damaged/`` with a warning
    that names it, and its result is computed again; a file that this user may not read counts as undamaged and raises an error. Two
    processes that need the same result compute it once.

    Parameters
    ----------
    root : str or Path, optional
        The folder, which is created when the first result is stored; `default_root` if not given.

    Examples
    --------
    >>> cache = Cache("runs")
    >>> cache.list()  # run ids of stored scores  # doctest: +SKIP
    >>> cache.read("0123456789abcdef")  # the scores of one run  # doctest: +SKIP
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()

    def __repr__(self) -> str:
        return f"Cache({str(self.root)!r}): {len(self.list())} runs"

    def path(self, identity: Identity, codec: Codec[Identity, Any, Any] = HEAD_SCORES) -> Path:  # type: ignore[assignment]
        """The path of a result's file, whether or not the result is stored."""
        return self.root / codec.folder / f"{codec.name(identity)}{codec.suffix}"

    def list(self, codec: Codec[Any, Any, Any] = HEAD_SCORES) -> list[str]:
        """Names of all stored results of one kind, sorted; for scores these are run ids.

        Raises
        ------
        StoreError
            If this user may not look into the folder.
        """
        folder = self.root / codec.folder
        try:
            files = [path.name for path in folder.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            files = []
        except OSError as error:
            what = f"The store {folder} cannot be read: {error.strerror or error}."
            raise StoreError(what, "Ask its owner for permission to read it, or use a store of your own (CIRCUITLAB_STORE).") from error
        names = [name.removesuffix(codec.suffix) for name in files if name.endswith(codec.suffix)]
        return sorted(name for name in names if name.isalnum())

    def has(self, identity: Identity, codec: Codec[Identity, Any, Any] = HEAD_SCORES) -> bool:  # type: ignore[assignment]
        """Whether a result is stored and undamaged, as far as its codec can tell before decoding. A damaged file is moved to quarantine.

        Raises
        ------
        StoreError
            If this user may not read its files.
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
    def read(self, identity: Identity, codec: Codec[Identity, Any, Stored]) -> Stored: ...

    def read(self, identity: Any, codec: Codec[Any, Any, Any] = HEAD_SCORES) -> Any:
        """Read a stored result; by default the scores of a run.

        Raises
        ------
        ScoreFileError
            If it is not stored, or its file is damaged, foreign, or from a newer version.
        StoreError
            If the file holds another result, or this user may not read it.
        """
        path = self.path(identity, codec)
        if not os.access(path, os.F_OK):
            what = f"There is no {path}."
            raise ScoreFileError(what, "Check the name and the store, or compute the result.")
        return codec.read(path, identity)

    def find(self, identity: Identity, codec: Codec[Identity, Any, Stored]) -> Stored | None:
        """A stored result, or None; a damaged, foreign or newer file is moved to quarantine.

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

    def put(self, identity: Identity, codec: Codec[Identity, Computed, Stored], computed: Computed, *, seconds: float = 0.0) -> Stored:
        """Store a result and return it as it will be read back; an existing file of the same result is replaced in one step.

        Parameters
        ----------
        identity
            Everything that the result depends on, as the codec takes it.
        codec : Codec
            How it is written.
        computed
            The result.
        seconds : float
            How long the computation took, in seconds.

        Raises
        ------
        StoreError
            If the disk is full, the folder cannot be written, or the codec cannot write this result.
        """
        return codec.write(self.path(identity, codec), identity, computed, seconds)

    def get_or_compute(
        self, identity: Identity, codec: Codec[Identity, Computed, Stored], compute: Callable[[], Computed]
    ) -> tuple[Stored, bool]:
        """Return the stored result, or compute and store it. If another process is computing the same result, wait for it.

        Parameters
        ----------
        identity
            Everything that the result depends on, as the codec takes it: a run id for scores, a mapping for documents.
        codec : Codec
            How it is written and read.
        compute : callable
            Computes the result; called only if it is not stored.

        Returns
        -------
        tuple
            The result, and whether it was stored before.

        Raises
        ------
        StoreError
            If the folder cannot be written (raised before anything is computed), or a stored file cannot be read.
        """
        stored = self.find(identity, codec)
        if stored is not None:
            return stored, True
        path = self.path(identity, codec)
        require_writable(path.parent)
        with self.lock(path.name):
            stored = self.find(identity, codec)  # another process may have computed it in the meantime
            if stored is not None:
                return stored, True
            started = time.perf_counter()
            computed = compute()
            return self.put(identity, codec, computed, seconds=time.perf_counter() - started), False

    def checkpoint(self, name: str, folder: str = "partial") -> Checkpoint:
        """The checkpoint of the unfinished computation with this name.

        Raises
        ------
        StoreError
            If the name cannot be a file name.
        """
        return Checkpoint(self.root / folder / f"{require_file_name('name of a checkpoint', name, StoreError)}.npz")

    @contextmanager
    def lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock with this name, which other processes respect, inside the ``with`` block.

        Yields whether the lock is held: always true with ``wait``; otherwise false if another process holds it.

        Raises
        ------
        StoreError
            If the lock file cannot be written.
        """
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
            # Removed while it is still held: a process that waited for the removed file looks for the result first, and finds it.
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def set_aside(self, name: str, codec: Codec[Any, Any, Any], problem: str) -> None:
        """Move a stored result, by the name of its file, to quarantine, with a warning that names it and says what is wrong with it.

        Raises
        ------
        StoreError
            If this user may not move it.
        """
        file = f"{require_file_name('name of a result', name, StoreError)}{codec.suffix}"
        self._quarantine(self.root / codec.folder / file, codec, problem)

    def _quarantine(self, path: Path, codec: Codec[Any, Any, Any], problem: str) -> None:
        quarantine(codec.files(path), self.root / codec.folder / "damaged", problem)
