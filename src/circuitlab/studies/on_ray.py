"""Run the cells of a study as Ray tasks: one model per worker, one store for all; a worker that dies costs its cell in flight."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitlab.core.errors import BadParameterError, StoreError
from circuitlab.store import Cache
from circuitlab.studies.on_workers import hand_out
from circuitlab.studies.run import StudyResult, visit
from circuitlab.studies.types import StudySpec
from circuitlab.studies.work import CellResult, Work, cells_of
from circuitlab.workflows.terminal import Progress, SilentProgress

__all__ = ["RayCluster", "run_study_on_ray"]

_OBJECT_STORE = 100 * 2**20
"""Bytes that Ray may keep in shared memory: results go through the store, so that hardly anything passes through it."""

_GIB = 2**30


@dataclass(frozen=True)
class RayCluster:
    """Which Ray cluster runs a study, and what each of its workers needs.

    Parameters
    ----------
    address : str, optional
        Address of a running cluster, or ``"auto"`` for the one that this machine belongs to. By default one is started on this machine
        alone, without dashboard and usage statistics, and is stopped at the end. Ray listens on all network interfaces meanwhile.
    workers : int, optional
        Worker processes, each with a model of its own; by default as many as there are cells to run and free resources for.
    cpus : int
        Processors of each worker, and its threads.
    memory : float, optional
        Memory that Ray reserves for each worker, in GiB, so that no more models are loaded on a machine than fit.

    Raises
    ------
    BadParameterError
        If a number is not positive.

    Examples
    --------
    >>> RayCluster(workers=2)
    RayCluster(address=None, workers=2, cpus=1, memory=None)
    >>> run_study_on_ray(study, Cache("runs"), RayCluster(workers=2))  # doctest: +SKIP
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    memory: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("cpus", self.cpus), ("memory", self.memory)):
            if value is not None and not value > 0:
                raise BadParameterError(f"{name}={value} is not positive.", "Give a number above 0, or leave it out.")

    def resources(self) -> dict[str, float]:
        """What one worker reserves, in Ray's words."""
        return {"num_cpus": self.cpus} | ({} if self.memory is None else {"memory": self.memory * _GIB})


def run_study_on_ray(
    study: StudySpec, cache: Cache, cluster: RayCluster | None = None, *, shard: str | None = None, progress: Progress | None = None
) -> StudyResult:
    """Run every cell of a study that is not finished, on the workers of a Ray cluster.

    Each worker loads the model once and writes what it finishes to the store, which all of them must see under one path. Scores are those
    of `run_study` with as many threads, bit for bit. A cell whose worker dies is given to another, which begins where the last saved rows
    end; after three deaths the cell counts as failed.

    Parameters
    ----------
    study : StudySpec
        The study.
    cache : Cache
        Cache of finished cells.
    cluster : RayCluster, optional
        Which cluster, and what a worker needs.
    shard : str, optional
        ``"i/n"``: only every n-th cell, as in `run_study`.
    progress : Progress, optional
        Shows the progress; nothing is shown by default.

    Returns
    -------
    StudyResult
        One entry per cell, scores first and then analyses.

    Raises
    ------
    BadParameterError
        If Ray is not installed, or the cluster has no machine with what a worker needs.
    StoreError
        If there are cells to run and the store cannot be written, a worker does not see the store, or workers die while they start.
    """
    where = cluster or RayCluster()
    _require_ray()
    return visit(Work.of(study, cache), shard, progress or SilentProgress(), functools.partial(_run, where))


def _require_ray() -> Any:
    """The package ``ray``.

    Raises
    ------
    BadParameterError
        If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray is imported
    try:
        import ray  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        what = f"Cells cannot run on Ray, because it cannot be imported: {error}."
        raise BadParameterError(what, "Install it with `pip install 'circuitlab[ray]'`, or share the study with --shard i/n.") from error
    return ray


def _run(cluster: RayCluster, work: Work, cells: list[Any], reporter: Progress) -> list[CellResult]:
    """Start workers and hand the cells out; the session ends and its workers stop whatever happens."""
    with _session(cluster, len(cells)) as (ray, n_workers), _seen_by_all(work.cache.root) as probe:
        place = _Place(str(Path.cwd()), str(work.cache.root.resolve()), probe, cluster.cpus, _settings())
        remote = ray.remote(max_restarts=0, max_task_retries=0, **cluster.resources())(_Worker)
        return hand_out(work, cells, reporter, _RayPool(ray, lambda: remote.remote(work.study, place), n_workers))


@contextmanager
def _session(cluster: RayCluster, cells: int) -> Iterator[tuple[Any, int]]:
    """Ray, connected to the cluster, and the number of workers. A session that the caller opened is used and left open."""
    ray = _require_ray()
    opened = not ray.is_initialized()
    if opened:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if cluster.address is None:
            cpus = max(os.cpu_count() or 1, (cluster.workers or 1) * cluster.cpus)
            here = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": _OBJECT_STORE, "_node_ip_address": "127.0.0.1"}
            ray.init(address="local", **here, **quiet)
        else:
            try:
                ray.init(address=cluster.address, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                what = f"There is no Ray cluster at {cluster.address!r}: {error}."
                raise BadParameterError(what, "Start one with `ray start --head`, and give the address that it prints.") from error
    try:
        yield ray, min(cells, cluster.workers or _room(ray, cluster))
    finally:
        if opened:
            ray.shutdown()


def _room(ray: Any, cluster: RayCluster) -> int:
    """How many workers fit on the machines of the cluster."""
    needs = {"CPU": float(cluster.cpus)} | ({} if cluster.memory is None else {"memory": cluster.memory * _GIB})
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = sum(min(int(machine.get(name, 0.0) // need) for name, need in needs.items()) for machine in machines)
    if fitting < 1:
        words = f"{cluster.cpus} processors" + ("" if cluster.memory is None else f" and {cluster.memory} GiB of memory")
        what = f"No machine of this Ray cluster has {words} for a worker."
        raise BadParameterError(what, "Ask for less (--cpus, --worker-memory), or add a larger machine.")
    return fitting


def _settings() -> dict[str, str]:
    """Variables that can change what a worker computes or finds; on another machine it does not inherit them."""
    return {name: value for name, value in os.environ.items() if name.startswith("CIRCUITLAB_")}


@contextmanager
def _seen_by_all(root: Path) -> Iterator[str]:
    """Name of a file in the store that every worker must find there."""
    name = f".ray-{secrets.token_hex(8)}"
    (root / name).touch()
    try:
        yield name
    finally:
        with contextlib.suppress(OSError):
            (root / name).unlink()


@dataclass(frozen=True)
class _Place:
    """Where a worker works: folder, store, a file that lies in it, threads, and variables of the environment."""

    folder: str
    store: str
    probe: str
    threads: int
    settings: dict[str, str]


class _Worker:
    """A process with one model, which runs one cell after the other."""

    def __init__(self, study: StudySpec, place: _Place) -> None:
        self._study, self._place = study, place
        self._work: Work | None = None

    def begin(self) -> str:
        """Take the driver's folder and settings; returns the process and its machine.

        Raises
        ------
        StoreError
            If this machine does not see the driver's folder and store.
        """
        import platform  # noqa: PLC0415

        import torch  # noqa: PLC0415 - the driver needs none

        place, host = self._place, platform.node()
        for path, name in ((Path(place.folder), place.folder), (Path(place.store) / place.probe, place.store)):
            if not path.exists():
                what = f"The worker on {host} does not see this study's folder {name}."
                raise StoreError(what, "Use a shared file system, or a store for each machine (--shard i/n) and `circuitlab study merge`.")
        os.chdir(place.folder)
        os.environ.update(place.settings)
        torch.set_num_threads(place.threads)
        self._work = Work.of(self._study, Cache(place.store))
        return f"process {os.getpid()} on {host}"

    def run(self, cell: int, *, wait: bool) -> tuple[tuple[CellResult, str] | None, list[str]]:
        """Run the cell with this number, as `Work.attempt` does; also returns the warnings, which nobody would see here."""
        if self._work is None:
            raise RuntimeError("A worker was given a cell before it began.")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            outcome = self._work.attempt(cells_of(self._study)[cell], wait=wait)
        return outcome, [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]


class _RayPool:
    """Workers on Ray as `hand_out` uses them: calls that will be answered, and deaths."""

    def __init__(self, ray: Any, new: Any, size: int) -> None:
        self._ray, self._new, self.size = ray, new, size
        self._calls: dict[Any, tuple[Any, Any]] = {}

    def start(self, tag: object) -> None:
        """Start a worker; its answer carries the tag."""
        worker = self._new()
        self._calls[worker.begin.remote()] = (worker, tag)

    def call(self, worker: Any, cell: int, *, wait: bool, tag: object) -> None:
        """Let a worker run a cell."""
        self._calls[worker.run.remote(cell, wait=wait)] = (worker, tag)

    def next(self) -> tuple[Any, Any, Any]:
        """Wait for one answer: tag, worker and value; for a worker that died, None and a sentence.

        Raises
        ------
        Exception
            What the worker raised.
        """
        (ready,), _ = self._ray.wait(list(self._calls), num_returns=1)
        worker, tag = self._calls.pop(ready)
        try:
            return tag, worker, self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from error
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.RaySystemError) as error:
            self._ray.kill(worker)  # if only the connection is lost, it must not go on beside its successor
            return tag, None, str(error).partition("\n")[0]
