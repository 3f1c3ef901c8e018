"""README and guides: their code runs, their files exist, their commands are real."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from circuitlab.cli.main import app
from circuitlab.tasks import load_task, sample_pairs, tasks_folder

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "tasks/README.md", "docs/architecture.md", "docs/methods.md"]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def paths_in(text: str) -> set[str]:
    """Files and folders named in backquotes, links or pictures."""
    named = re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:md|toml|py|txt))`", text) + re.findall(r"\]\(([\w./-]+)\)|src=\"([\w./-]+)\"", text)
    flat = {part for item in named for part in ([item] if isinstance(item, str) else item) if part}
    return {path for path in flat if not path.startswith("figures/built") and "opposites" not in path}


@pytest.mark.real_model
def test_the_python_example_runs_and_is_ten_lines(tmp_path, monkeypatch, capsys) -> None:
    (code,) = blocks(README, "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert re.search(r"^a\d+\.h\d  [+-]\d", said, flags=re.MULTILINE)
    assert re.search(r"Jaccard 0\.\d\d, by chance 0\.\d\d", said)
    assert (tmp_path / "successor.html").stat().st_size > 10_000


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    places = [ROOT, ROOT / "src" / "circuitlab", (ROOT / page).parent]
    missing = {path for path in paths_in(text) if not any((place / path).exists() for place in places)}
    assert missing == set()


def test_a_missing_file_would_be_noticed() -> None:
    assert paths_in('see `docs/nowhere.md`, [a](b/c.md) and <img src="d/e.png">') == {"docs/nowhere.md", "b/c.md", "d/e.png"}


def test_every_command_of_the_readme_exists() -> None:
    commands = re.findall(r"\.venv/bin/circuitlab ([a-z]+(?: check| show| run| build)?)", README)
    assert len(commands) >= 4
    for command in commands:
        assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0, command
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE)) <= targets


def test_the_task_guide_makes_a_working_task(tmp_path) -> None:
    (text,) = blocks((ROOT / "tasks" / "README.md").read_text(encoding="utf-8"), "toml")
    assert len(text.splitlines()) <= 12
    name = tomllib.loads(text)["id"]
    (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    (tmp_path / f"{name}.csv").write_text("word,opposite\nhot,cold\nbig,small\nup,down\n", encoding="utf-8")
    example = next(sample_pairs(load_task(tmp_path / f"{name}.toml"), folder=tmp_path))
    assert re.fullmatch(r'The opposite of "\w+" is "', example.clean)
    assert example.clean != example.corrupt
    assert "WORD" in example.clean_marks


def test_the_task_guide_lists_every_task() -> None:
    text = (ROOT / "tasks" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+)`", text.partition("## The tasks here")[2]))
    assert {path.stem for path in tasks_folder().glob("*.toml")} - {"pools"} <= listed
