"""Task files and tables from elsewhere: what they name lies in their own folder, and what hangs or lies is refused at once."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from circuitlab.core.errors import CircuitlabError, TaskFileError
from circuitlab.studies.load import load_study
from circuitlab.tasks import load_task, sample_pairs
from circuitlab.tasks.load import load_pools, read_tables, task_file
from circuitlab.tasks.templates import fill_set

CAPITALS = task_file("capitals")
STUDY = Path(__file__).parents[3] / "figures" / "core.toml"
SECRET = "country,capital\nNowhere,topsecret\nElsewhere,hidden\n"


def written(folder: Path, file: str) -> Path:
    """The task about capitals in a folder of its own, with another table."""
    folder.mkdir(exist_ok=True)
    (folder.parent / "secret.csv").write_text(SECRET)
    text = CAPITALS.read_text(encoding="utf-8").replace('"capitals.csv"', f'"{file}"')
    path = folder / "capitals.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("file", ["../secret.csv", "/etc/passwd", "..", "sub/table.csv", "..\\\\secret.csv", ""])
def test_a_table_outside_the_folder_is_refused_and_not_read(tmp_path: Path, file: str) -> None:
    path = written(tmp_path / "task", file)
    for read in (lambda: next(sample_pairs(path)), lambda: read_tables(load_task(path), path.parent)):
        with pytest.raises(TaskFileError) as refused:
            read()
        assert "topsecret" not in str(refused.value) and "root:" not in str(refused.value)


def test_a_link_out_of_the_folder_is_refused_and_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "task", "table.csv")
    (path.parent / "table.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(TaskFileError, match="link to another folder"):
        next(sample_pairs(path))


def test_a_table_and_a_link_inside_the_folder_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "task", "table.csv")
    (path.parent / "real.csv").write_text(SECRET)
    (path.parent / "table.csv").symlink_to("real.csv")
    assert "Nowhere" in next(sample_pairs(path)).clean or "Elsewhere" in next(sample_pairs(path)).clean


@pytest.mark.parametrize("value", ["nan", "inf", "-0.1", "1.5"])
def test_a_gate_that_is_no_share_is_refused(tmp_path: Path, value: str) -> None:
    text = re.sub("min_accuracy = [0-9.]+", f"min_accuracy = {value}", CAPITALS.read_text(encoding="utf-8"))
    (tmp_path / "capitals.toml").write_text(text, encoding="utf-8")
    with pytest.raises(TaskFileError, match="min_accuracy"):
        load_task(tmp_path / "capitals.toml")


def test_a_long_pool_with_repeats_is_refused_at_once(tmp_path: Path) -> None:
    words = ",".join(f'"n{i % 30000}"' for i in range(60000))
    (tmp_path / "pools.toml").write_text(f"names = [{words}]\n", encoding="utf-8")
    (tmp_path / "ioi.toml").write_text(task_file("ioi").read_text(encoding="utf-8"), encoding="utf-8")
    began = time.process_time()
    with pytest.raises(TaskFileError, match="repeats n0, n1"):
        next(sample_pairs(tmp_path / "ioi.toml"))
    assert time.process_time() - began < 10  # it took 35 s when every word was counted by itself


HOSTILE = {
    "nested arrays": "x = " + "[" * 100_000,
    "nested tables": "x = " + "{a=" * 100_000,
    "a key of many parts": ".".join("a" * 50_000) + " = 1",
    "a key of many quoted parts": " . ".join(["'a'", '"b"'] * 10_000) + " = 1",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("file", ["capitals.toml", "pools.toml", "study.toml"])
def test_toml_that_recurses_or_hangs_is_refused_at_once(tmp_path: Path, file: str, text: str) -> None:
    own = {"capitals.toml": CAPITALS, "pools.toml": CAPITALS.with_name("pools.toml"), "study.toml": STUDY}
    (tmp_path / file).write_text(text + "\n" + own[file].read_text(encoding="utf-8"), encoding="utf-8")
    read = {"capitals.toml": load_task, "pools.toml": lambda path: load_pools(path.parent), "study.toml": load_study}
    began = time.process_time()
    with pytest.raises(CircuitlabError, match=file) as refused:
        read[file](tmp_path / file)
    assert refused.value.fix and time.process_time() - began < 5


def test_a_cell_of_megabytes_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "task", "table.csv")
    (path.parent / "table.csv").write_text("country,capital\n" + "A" * 2_000_000 + ",b\nC,d\n")
    with pytest.raises(TaskFileError, match=r"table\.csv"):
        next(sample_pairs(path))


@pytest.mark.parametrize(
    ("task", "field", "odd", "reason"),
    [
        ("successor", r"pools = \[.*\]", "pools = []", "names no pool"),
        ("capitals", r"rows = \[.*\]", "rows = []", "draws no row"),
        ("addition", r"shots = \d+", "shots = -1", "is no number of worked examples"),
        ("addition", r"shots = \d+", "shots = 99", "Ask for 0 to"),
    ],
)
def test_a_source_that_cannot_give_a_row_is_refused(tmp_path: Path, task: str, field: str, odd: str, reason: str) -> None:
    text, changes = re.subn(field, odd, task_file(task).read_text(encoding="utf-8"), count=1)
    assert changes
    (tmp_path / f"{task}.toml").write_text(text, encoding="utf-8")
    (tmp_path / "capitals.csv").write_bytes(CAPITALS.with_suffix(".csv").read_bytes())
    with pytest.raises(TaskFileError, match=reason):
        next(sample_pairs(tmp_path / f"{task}.toml"))


def test_two_lists_in_one_answer_are_refused() -> None:
    with pytest.raises(TaskFileError, match="'many', 'more' into one text"):
        fill_set(["{many}{more}"], {"many": ["a"], "more": ["b"]}, "answers")
