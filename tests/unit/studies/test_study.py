"""Study: one object to run, read, compare and build."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_study import made_up_study

from circuitlab import Study, TopK
from circuitlab.comparison import compare_tasks
from circuitlab.core.errors import CircuitlabError, StoreError, UnknownNameError


def test_a_finished_study_runs_nothing_and_reads_compares_and_builds(tmp_path) -> None:
    file, store = made_up_study(tmp_path)
    study = Study(file, store)
    assert all(cell.cached for cell in study.run().cells)
    scores = study.scores()
    assert len(scores) == len(study.spec.cells())
    table = study.compare("logit_attribution")
    mine = compare_tasks({task: s for (task, method), s in scores.items() if method == "logit_attribution"}, TopK(5))
    np.testing.assert_allclose(table.matrix(), mine.matrix())
    assert table.method == "logit_attribution"
    assert study.compare().method == study.spec.compare.method
    assert "report.html" in study.build(tmp_path / "out").files


def test_errors_name_what_is_wrong(tmp_path) -> None:
    file, store = made_up_study(tmp_path, unfinished="capitals")
    with pytest.raises(StoreError, match="study run"):
        Study(file, store).scores()
    with pytest.raises(CircuitlabError, match=r"nowhere\.toml"):
        Study(tmp_path / "nowhere.toml", store)
    (tmp_path / "b").mkdir()
    whole, full = made_up_study(tmp_path / "b")
    with pytest.raises(UnknownNameError, match="Did you mean 'activation_patching'"):
        Study(whole, full).compare("activation_patchin")


def test_a_method_that_reads_weights_alone_is_no_method_of_a_study(tmp_path) -> None:
    file, store = made_up_study(tmp_path)
    text = file.read_text()
    file.write_text(text.replace('name = "logit_attribution"', 'name = "copying_score"'))
    assert text != file.read_text()
    with pytest.raises(CircuitlabError, match="lists 'copying_score', which reads weights alone, and a study scores tasks"):
        Study(file, store)
