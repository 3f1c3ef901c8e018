"""MANIFEST.json: every built file with its hash, and the runs, weights and prompts that it was made from."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from circuitlab.citations import CITATIONS, STATISTICS, bibtex
from circuitlab.core.errors import StoreError
from circuitlab.core.files import read_bytes
from circuitlab.studies.results import StudyRuns
from circuitlab.studies.types import Analysis, AnalysisResult, ScoredCell

__all__ = ["MANIFEST", "FileEntry", "Manifest", "RecordEntry", "RunEntry", "citation_keys", "read_manifest", "sha256"]

MANIFEST = "MANIFEST.json"
"""File name of the manifest."""


class FileEntry(msgspec.Struct, frozen=True):
    """One built file: SHA-256, size in bytes, and the ids of the runs and analysis records that it was made from.

    ``checked`` is false for images, whose bytes depend on the installed browser.
    """

    sha256: str
    bytes: int
    runs: list[str]
    checked: bool = True
    records: list[str] = []


class RunEntry(msgspec.Struct, frozen=True):
    """The provenance of one run."""

    run_id: str
    task: str
    variant: str
    method: str
    params: dict[str, Any]
    metric: str
    n_pairs: int
    seed: int
    prompts: str
    weights: str
    ready: bool | None
    created: str | None
    packages: dict[str, str]
    cite: list[str]


class RecordEntry(msgspec.Struct, frozen=True):
    """The provenance of one analysis: its settings, and the score runs that it read."""

    record_id: str
    analysis: str
    unit: str
    settings: dict[str, Any]
    runs: list[str]
    created: str
    cite: list[str]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The sources of a folder of figures.

    Parameters
    ----------
    study : dict
        Id, title, file name and SHA-256 of the study file.
    model : dict
        Name, family and identity of the model.
    runs : list of RunEntry
        Score runs in the order of the study.
    records : list of RecordEntry
        Results of the study's analyses, in the order of the study.
    files : dict of str to FileEntry
        Every file except the manifest itself.
    images : str
        ``"made"``, or the reason why there are no .svg and .png files.
    citations : dict of str to str
        BibTeX entries by key.
    built_with : dict of str to str
        Versions of circuitlab and plotly; other versions may give other bytes.
    """

    schema: int = 1
    study: dict[str, str]
    model: dict[str, str]
    runs: list[RunEntry]
    files: dict[str, FileEntry]
    images: str
    citations: dict[str, str]
    built_with: dict[str, str]
    records: list[RecordEntry] = []

    @classmethod
    def of(cls, runs: StudyRuns, files: dict[str, FileEntry], images: str) -> Manifest:
        """The manifest of the files built from a study's runs."""
        spec = runs.runs[0].scores.provenance.model if runs.runs else None
        keys = citation_keys(runs)
        return cls(
            study={
                "id": runs.study.id,
                "title": runs.study.title,
                "file": runs.file.name,
                "sha256": sha256(runs.file.read_bytes()),
            },
            model={"name": runs.study.model} if spec is None else {"name": spec.name, "family": spec.family} | spec.identity(),
            runs=[_entry(run) for run in runs.runs],
            files=files,
            images=images,
            citations={key: bibtex(key) for key in keys if key in CITATIONS},
            built_with={name: importlib.metadata.version(name) for name in ("plotly",)} | {"circuitlab": _version()},
            records=[_record_entry(analysis, result) for analysis, results in runs.results for result in results],
        )

    def encode(self) -> bytes:
        """Indented JSON; equal manifests give equal bytes."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def citation_keys(runs: StudyRuns) -> list[str]:
    """Citation keys of a study's tasks, methods and analyses, sorted."""
    analyses = {key for analysis, found in runs.results if found for key in analysis.citations()}
    if runs.study.compare is not None:
        analyses |= set(STATISTICS["compare"])
    return sorted({key for run in runs.runs for key in _keys(run)} | analyses)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, or None if there is none.

    Raises
    ------
    StoreError
        If it is damaged, or this user may not read it.
    """
    path = folder / MANIFEST
    data = read_bytes(path)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        what = f"{path} cannot be read: {error}."
        raise StoreError(what, "Remove it and run `circuitlab figures build`.") from error


def sha256(data: bytes) -> str:
    """SHA-256 of bytes, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _keys(run: ScoredCell) -> Mapping[str, None]:
    return dict.fromkeys([*run.task.cite, *run.scores.provenance.cite])


def _version() -> str:
    try:
        return importlib.metadata.version("circuitlab")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _entry(run: ScoredCell) -> RunEntry:
    provenance = run.scores.provenance
    environment = provenance.environment
    return RunEntry(
        run_id=run.run_id,
        task=provenance.task.id,
        variant=provenance.task.variant,
        method=provenance.method,
        params=provenance.params,
        metric=provenance.metric,
        n_pairs=run.scores.n_pairs,
        seed=provenance.task.seed,
        prompts=provenance.task.digest,
        weights=provenance.model.weights,
        ready=None if provenance.fitness is None else provenance.fitness.ready,
        created=environment.created if environment else None,
        packages=environment.packages if environment else {},
        cite=list(_keys(run)),
    )


def _record_entry(analysis: Analysis, result: AnalysisResult) -> RecordEntry:
    return RecordEntry(
        record_id=result.record_id,
        analysis=analysis.name,
        unit=result.cell.key,
        settings=analysis.identity(),
        runs=[run.run_id for run in result.runs],
        created=result.environment.created,
        cite=list(analysis.citations()),
    )
