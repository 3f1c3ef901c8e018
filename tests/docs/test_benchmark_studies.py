"""The benchmark of studies divides all of the time among parts, once, and its table says what its lines say."""

from __future__ import annotations

import time
from pathlib import Path

import bench_study
import pytest
import table_studies

from circuitlab.execute.contract import weights_only
from circuitlab.methods import list_methods, method_classes
from circuitlab.studies.load import load_study

ROOT = Path(__file__).parents[2]


def busy(seconds: float) -> None:
    stop = time.process_time() + seconds
    while time.process_time() < stop:
        pass


def test_time_inside_a_part_is_counted_once_also_after_an_error() -> None:
    clock = bench_study.Clock()
    inner = clock.timed(lambda: busy(0.05), "inner")
    started = time.process_time()
    with clock.part("outer"):
        inner()
        busy(0.02)
        inner()
        with pytest.raises(ZeroDivisionError):
            clock.timed(lambda: busy(0.02) or 1 / 0, "fails")()
    spent = time.process_time() - started
    parts = clock.parts
    assert {name: part.times for name, part in parts.items()} == {"outer": 1, "inner": 2, "fails": 1}
    assert sum(part.cpu for part in parts.values()) == pytest.approx(spent, abs=0.01)
    assert parts["inner"].cpu > 0.09 and 0.06 > parts["outer"].cpu > 0.015 and parts["fails"].cpu > 0.015
    assert all(part.wall >= part.cpu - 0.01 for part in parts.values())


def test_a_study_is_run_and_built_from_an_empty_store_and_every_step_is_timed(tmp_path, monkeypatch) -> None:
    from circuitlab.explorer import measurements as explorer
    from circuitlab.studies import build

    monkeypatch.setattr(explorer, "MEASURES", dict(explorer.MEASURES))
    for step in bench_study._STEPS:
        monkeypatch.setattr(build, step, getattr(build, step))
    study, clock = tmp_path / "small.toml", bench_study.Clock()
    about = 'id = "small"\ntitle = "small"\nmodel = "smollm2-135m"\ntasks = []\nmethods = []\n'
    study.write_text(f'{about}[planted]\nmethods = ["logit_attribution"]\nmodels = ["copy-gqa"]\nseeds = 1\n', encoding="utf-8")
    assert bench_study.measure(str(study), tmp_path / "runs", tmp_path / "built", clock) == []
    assert {"planted of logit_attribution", "build: files", "build: report_page", "build: draw_all"} <= set(clock.parts)
    assert "loading the model" not in clock.parts and (tmp_path / "built" / "report.html").exists()
    line = bench_study.line_of("small", 2, clock)
    assert line["cpu_seconds"] == pytest.approx(sum(cpu for cpu, _ in line["parts"].values()), abs=0.1) and line["threads"] == 2


def test_the_table_adds_up_methods_and_says_what_is_dearest() -> None:
    parts = {"ioi x eap": [60.0, 40.0], "successor x eap": [60.0, 30.0], "explorer: roles": [50.0, 30.0], "explorer": [10.0, 10.0]}
    parts |= {"build: report_page": [20.0, 10.0]}
    text = table_studies.table([{"study": "core", "threads": 2, "cpu_seconds": 200.0, "seconds": 120.0, "parts": parts}])
    assert text.splitlines()[2] == "| `figures/core.toml` | 2.0 | 3.3 | 2 | `eap` 60%, explorer 30%, figures and pages 10% |"


def test_the_readme_shows_the_kept_lines() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert table_studies.PLACE.between(readme) == table_studies.table(bench_study.kept()), "run benchmarks/table_studies.py"


def test_the_study_of_every_method_leaves_none_out() -> None:
    study = load_study(ROOT / "figures" / "every_method.toml")
    running = [name for name in list_methods() if not weights_only(method_classes()[name])]
    assert sorted(method.name for method in study.methods) == running
    core = load_study(ROOT / "figures" / "core.toml")
    assert [task.id for task in study.tasks] == [task.id for task in core.tasks] and all(not method.params for method in study.methods)
