"""Build a study's figures, tables and report from its stored runs. No model is loaded, and equal runs give equal bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from circuitlab.core.errors import StoreError
from circuitlab.core.files import free_name, read_bytes, replace_file
from circuitlab.figures.images import exporter, image_problem, render_image
from circuitlab.figures.page import figure_json, figure_page, plotly_js
from circuitlab.store import Cache
from circuitlab.studies.drawings import draw_all
from circuitlab.studies.explorer_page import study_page
from circuitlab.studies.load import load_study
from circuitlab.studies.manifest import MANIFEST, FileEntry, Manifest, read_manifest, sha256
from circuitlab.studies.misfits import built_from
from circuitlab.studies.report.analyses import analysis_tables
from circuitlab.studies.report.page import report_page
from circuitlab.studies.results import StudyRuns, collect
from circuitlab.studies.tables import fitness_csv, heads_csv, overlap_csv
from circuitlab.studies.types import Analysis, AnalysisResult, ScoredCell, StudyFigure, StudySpec

__all__ = ["BuildResult", "CheckResult", "build_figures", "check_figures", "write_report"]

_SUFFIXES = frozenset({".html", ".json", ".csv", ".svg", ".png", ".js"})
"""Suffixes of the files that a build writes."""
_EARLIER = "earlier"
"""Where files of an earlier build that are no longer made are moved."""


class BuildResult(msgspec.Struct, frozen=True):
    """The result of a build: the folder, file names (the manifest last), run ids, and whether images could be made.

    ``records`` are the ids of the analysis records that were used, and ``missing`` the cells of analyses that have not been run.
    """

    out: str
    files: list[str]
    runs: list[str]
    images: str
    records: list[str] = []
    missing: list[str] = []


class CheckResult(msgspec.Struct, frozen=True):
    """Whether a folder's files are what the runs give, and the names of files that differ, are missing, or are no longer built."""

    ok: bool
    files: int
    differing: list[str]


@dataclass(frozen=True)
class _File:
    data: bytes
    runs: tuple[ScoredCell, ...]
    records: tuple[str, ...] = ()


def build_figures(study_file: str | Path, *, store: Cache, out: str | Path | None = None) -> BuildResult:
    """Write every figure, table, the report and the manifest of a study.

    Parameters
    ----------
    study_file : str or Path
        Study file, for example ``figures/core.toml``.
    store : Cache
        Cache of the finished runs.
    out : str or Path, optional
        Folder; by default ``figures/built/<study id>``. Each file is replaced atomically. Files of an earlier build of the same study that
        are no longer made are moved into ``earlier/`` in it if they are unchanged since that build; nothing is removed.

    Returns
    -------
    BuildResult
        The files. .svg and .png files are written only if an exporter is installed; otherwise ``images`` gives the reason.

    Raises
    ------
    StoreError
        If score cells are missing (they are named, with the command that runs them), a file cannot be written, or the folder holds the
        figures of another study. Analyses that have not been run are left out, named in the report and in ``missing``; a result
        whose data have another form is named in a warning, moved to quarantine, and counts as not run.
    """
    runs = collect(study_file, store)
    folder = _folder_of(runs.study, out)
    before = _earlier_files(folder, runs.study)
    runs, (drawings, files) = built_from(runs, store, partial(_drawn, store=store))
    pictures, images = _images(drawings)
    entries = {name: _entry(file) for name, file in files.items()}
    entries |= {name: msgspec.structs.replace(_entry(file), checked=False) for name, file in pictures.items()}
    manifest = Manifest.of(runs, dict(sorted(entries.items())), images)
    for name, file in (files | pictures).items():
        _write(folder / name, file.data)
    _write(folder / MANIFEST, manifest.encode())
    _set_aside(folder, {name: entry for name, entry in before.items() if name not in entries})
    names = [*sorted(entries), MANIFEST]
    records = [result.record_id for _, results in runs.results for result in results]
    missing = [planned.label for planned in runs.missing]
    return BuildResult(str(folder), names, [run.run_id for run in runs.runs], images, records, missing)


def _folder_of(study: StudySpec, out: str | Path | None) -> Path:
    """The folder of a study's figures; by default every study has its own."""
    return Path("figures/built") / study.id if out is None else Path(out)


def _earlier_files(folder: Path, study: StudySpec) -> dict[str, FileEntry]:
    """The files that an earlier build of this study wrote into a folder; raises for a folder of another study."""
    manifest = read_manifest(folder)
    if manifest is not None and manifest.study.get("id") != study.id:
        what = f"{folder} holds the figures of study {manifest.study.get('id')!r}, not of {study.id!r}."
        raise StoreError(what, f"Build into another folder, such as {_folder_of(study, None)}: files of another study are not replaced.")
    return {} if manifest is None else manifest.files


def check_figures(study_file: str | Path, *, store: Cache, out: str | Path | None = None) -> CheckResult:
    """Rebuild everything in memory and compare it with a folder, byte by byte.

    Images are compared only with the hash in the manifest, because their bytes depend on the browser that drew them.

    Raises
    ------
    StoreError
        If the folder has no manifest, or runs are missing.
    """
    folder = _folder_of(load_study(study_file), out)
    manifest = read_manifest(folder)
    if manifest is None:
        what = f"{folder} has no {MANIFEST}."
        raise StoreError(what, f"Run `circuitlab figures build {study_file}` first.")
    runs, (_, files) = built_from(collect(study_file, store), store, partial(_drawn, store=store))
    entries = {name: _entry(file) for name, file in files.items()}
    entries |= {name: entry for name, entry in manifest.files.items() if not entry.checked}
    expected = {name: entry.sha256 for name, entry in entries.items()}
    expected[MANIFEST] = sha256(Manifest.of(runs, dict(sorted(entries.items())), manifest.images).encode())
    names = sorted({*expected, *manifest.files})
    differing = [name for name in names if _hash_of(folder, name) != expected.get(name)]
    return CheckResult(not differing, len(names), differing)


def write_report(study_file: str | Path, *, store: Cache, out: str | Path | None = None) -> Path:
    """Write only the self-contained report (``<study id>.html`` by default); it raises as `build_figures` does."""
    runs, page = built_from(collect(study_file, store), store, lambda sound: report_page(sound, draw_all(sound)))
    path = Path(f"{runs.study.id}.html") if out is None else Path(out)
    _write(path, page.encode())
    return path


def _drawn(runs: StudyRuns, store: Cache) -> tuple[list[StudyFigure], dict[str, _File]]:
    drawings = draw_all(runs)
    return drawings, _files(runs, drawings, store)


def _files(runs: StudyRuns, drawings: list[StudyFigure], store: Cache) -> dict[str, _File]:
    files = {"plotly.min.js": _File(plotly_js().encode(), ())}
    for drawing in drawings:
        files[f"{drawing.name}.html"] = _File(figure_page(drawing.figure, _anchor(drawing.name)).encode(), drawing.runs, drawing.records)
        files[f"{drawing.name}.json"] = _File(figure_json(drawing.figure).encode(), drawing.runs, drawing.records)
    tables = {"heads.csv": heads_csv(runs), "overlap.csv": overlap_csv(runs), "task_fitness.csv": fitness_csv(runs)}
    files |= {name: _File(text.encode(), runs.runs) for name, text in tables.items() if text}
    for analysis, results in runs.results:
        files |= {_record_name(analysis, result): _File(_record_json(result), result.runs, (result.record_id,)) for result in results}
    records = tuple(result.record_id for _, results in runs.results for result in results)
    files |= {name: _File(text.encode(), runs.runs, records) for name, text in analysis_tables(runs).items()}
    if runs.runs:  # the explorer shows scores
        files["explorer.html"] = _File(study_page(runs, store).encode(), runs.runs, records)
    files["report.html"] = _File(report_page(runs, drawings).encode(), runs.runs, records)
    return files


def _images(drawings: list[StudyFigure]) -> tuple[dict[str, _File], str]:
    if problem := image_problem():
        return {}, problem
    files = {}
    try:
        with exporter():
            for drawing in drawings:
                for kind in ("svg", "png"):
                    files[f"{drawing.name}.{kind}"] = _File(render_image(drawing.figure, kind), drawing.runs, drawing.records)
    except Exception as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()[:160]
        return {}, f"not made: the exporter failed ({type(error).__name__}: {reason})"
    return files, "made"


def _record_name(analysis: Analysis, result: AnalysisResult) -> str:
    return ".".join(filter(None, (analysis.name, result.cell.key, "record.json")))


def _record_json(result: AnalysisResult) -> bytes:
    """The result of an analysis, so that every number in its figures can be read without the store."""
    return msgspec.json.format(msgspec.json.encode(result.result, order="sorted"), indent=1) + b"\n"


def _entry(file: _File) -> FileEntry:
    runs = list(dict.fromkeys(run.run_id for run in file.runs))
    return FileEntry(sha256(file.data), len(file.data), runs, records=list(dict.fromkeys(file.records)))


def _anchor(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def _write(path: Path, data: bytes) -> None:
    replace_file(path, lambda target: target.write_bytes(data))


def _set_aside(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Move files that an earlier build wrote into a folder of their own.

    Only files with the hash in the manifest are moved, and none is removed, because anybody may have edited the manifest.
    """
    for name, entry in files.items():
        if Path(name).suffix in _SUFFIXES and name != MANIFEST and _hash_of(folder, name) == entry.sha256:
            try:
                (folder / _EARLIER).mkdir(exist_ok=True)
                (folder / name).replace(free_name(folder / _EARLIER / name))
            except OSError as error:
                what = f"{folder / name} is of an earlier build, and cannot be moved to {folder / _EARLIER}: {error.strerror or error}."
                raise StoreError(what, "Move it yourself, or build into another folder.") from error


def _hash_of(folder: Path, name: str) -> str | None:
    """Hash of a regular file in the folder itself; None for links and paths elsewhere, which are not read."""
    path = folder / name
    inside = Path(name).name == name and path.is_file() and not path.is_symlink()
    data = read_bytes(path) if inside else None
    return None if data is None else sha256(data)
