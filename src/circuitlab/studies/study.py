"""A study file together with the store of its runs: run, read, compare, build."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.store import Cache
from circuitlab.studies.load import load_study
from circuitlab.studies.results import collect
from circuitlab.studies.types import StudySpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from circuitlab.comparison import OverlapTable
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.studies.build import BuildResult
    from circuitlab.studies.on_ray import RayCluster
    from circuitlab.studies.run import StudyResult
    from circuitlab.workflows.terminal import Progress

__all__ = ["Study"]


@dataclass(frozen=True)
class Study:
    """A study: every task with every method on one model, and analyses of their scores.

    Parameters
    ----------
    file : str or Path
        Study file, for example ``figures/core.toml``.
    store : Cache, optional
        Cache of finished runs; ``$CIRCUITLAB_STORE`` or ``./runs`` by default.

    Raises
    ------
    CircuitlabError
        If the file is not a study; the message names the field.

    Examples
    --------
    >>> _ = Path("mine.toml").write_text('''
    ... id = "mine"
    ... title = "One task, one method"
    ... model = "smollm2-135m"
    ... n = 4
    ... methods = [{ name = "logit_attribution" }]
    ... tasks = [{ id = "successor" }]
    ... ''')
    >>> study = Study("mine.toml")
    >>> study.spec.title, [task.id for task in study.spec.tasks]
    ('One task, one method', ['successor'])
    >>> study.run()  # doctest: +SKIP
    >>> study.scores()["successor", "logit_attribution"]  # doctest: +SKIP
    """

    file: str | Path
    store: Cache | None = None

    def __post_init__(self) -> None:
        load_study(self.file)

    @property
    def spec(self) -> StudySpec:
        """The contents of the study file."""
        return load_study(self.file)

    @property
    def runs(self) -> Cache:
        """The store in use."""
        return self.store or Cache()

    def run(
        self,
        *,
        shard: str | None = None,
        cluster: RayCluster | None = None,
        progress: Progress | None = None,
        device: str | None = None,
    ) -> StudyResult:
        """Run every cell, of scores and of analyses, that is not finished.

        Parameters
        ----------
        shard : str, optional
            ``"i/n"``: only every n-th cell, starting with the i-th, so that n processes share the study.
        cluster : RayCluster, optional
            Run the cells on Ray (`circuitlab.studies.on_ray.RayCluster`) instead of in this process.
        progress : Progress, optional
            Shows the progress; on the terminal by default.
        device : str, optional
            Where the model runs in this process, as in `circuitlab.load_model`.

        Raises
        ------
        BadParameterError
            If the device is not there, or is given for workers of Ray.
        """
        from circuitlab.studies.run import run_study  # noqa: PLC0415 - reading a finished study needs neither
        from circuitlab.workflows.terminal import TerminalProgress  # noqa: PLC0415

        shown = progress or TerminalProgress()
        if cluster is None:
            return run_study(self.spec, self.runs, load=None if device is None else _loader(device), shard=shard, progress=shown)
        if device is not None:
            what = f"device={device!r} was given for workers of Ray, which run on processors."
            raise BadParameterError(what, "Leave one of them out.")
        from circuitlab.studies.on_ray import run_study_on_ray  # noqa: PLC0415 - Ray is an extra

        return run_study_on_ray(self.spec, self.runs, cluster, shard=shard, progress=shown)

    def scores(self) -> dict[tuple[str, str], HeadScores]:
        """Scores of every cell by (task, method); raises `StoreError` with the names of cells that are not finished."""
        return {(run.task_key, run.method_key): run.scores for run in collect(self.file, self.runs).runs}

    def results(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Results of the study's analyses as plain data, by (analysis, cell); cells that have not been run are left out."""
        groups = collect(self.file, self.runs).results
        return {(analysis.name, result.cell.key): result.result for analysis, results in groups for result in results}

    def compare(self, method: str | None = None) -> OverlapTable:
        """Overlap of the tasks' circuits by one method; by default the method that the file names.

        Raises
        ------
        UnknownNameError
            If the study has no such method.
        BadParameterError
            If the method scored fewer than two tasks by head.
        """
        from circuitlab.studies.drawings import compare_method  # noqa: PLC0415 - draws with plotly

        runs, compared = collect(self.file, self.runs), self.spec.compare
        name = method or (compared.method if compared else next(iter(runs.methods())))
        if name not in runs.methods():
            raise UnknownNameError("method of this study", name, runs.methods())
        table = compare_method(runs, name)
        if table is None:
            what = f"{name} scored the heads of fewer than two tasks of study {self.spec.id!r}."
            raise BadParameterError(what, "Add a task to the study file and run it.")
        return table

    def build(self, out: str | Path | None = None) -> BuildResult:
        """Write figures, tables, report and manifest into ``figures/built/<study id>`` or ``out``; no model is loaded."""
        from circuitlab.studies.build import build_figures  # noqa: PLC0415

        return build_figures(self.file, store=self.runs, out=out)


def _loader(device: str) -> Callable[[str], Model]:
    """Loads models onto a device, which must be there before any cell is run."""
    from circuitlab.model import load_model  # noqa: PLC0415 - reading a finished study needs no model
    from circuitlab.model.device import require_device  # noqa: PLC0415

    require_device(device)
    return functools.partial(load_model, device=device)
