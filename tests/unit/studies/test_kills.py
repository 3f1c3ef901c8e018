"""The short version of benchmarks/bench_kills.py: a study that is killed again and again loses nothing that was finished."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_kills_tear_no_file_lose_no_cell_and_leave_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    import bench_kills

    monkeypatch.setattr("circuitlab.workflows.prompts.FITNESS_PAIRS", 4)

    study = bench_kills.study_of(["successor"], ["logit_attribution", "attribution_patching"], 2)
    counts = bench_kills.trials(3, 0, tmp_path, study)
    assert counts.pop("kills") == 3
    counts.pop("studies completed"), counts.pop("temporary files of killed writers")
    assert set(counts.values()) == {0}, counts
