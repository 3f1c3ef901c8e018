"""README and guides: their code runs, their files exist, their commands are real."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from circuitlab.cli.main import app
from circuitlab.evaluation import Evaluate
from circuitlab.tasks import load_task, sample_pairs, tasks_folder

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "tasks/README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def paths_in(text: str) -> set[str]:
    """Files and folders named in backquotes, links or pictures."""
    named = re.findall(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:md|toml|py|txt))`", text) + re.findall(r"\]\(([\w./-]+)\)|src=\"([\w./-]+)\"", text)
    flat = {part for item in named for part in ([item] if isinstance(item, str) else item) if part}
    return {
        path
        for path in flat
        if not path.startswith(("figures/built", "site/", ".venv", "circuitlab.explorer/")) and "opposites" not in path
    }


@pytest.fixture
def workplace(tmp_path, monkeypatch, smollm2) -> Path:
    """An empty folder with the table that the README uses, and the model as other tests have loaded it.

    Tasks are judged on few pairs, and a circuit is compared with few others.
    """

    def load(name: str, *, stream: bool = False, device: str | None = None) -> object:
        assert not stream and device is None, "no command of the README streams or names a device"
        return {"smollm2-135m": smollm2}[name]

    for place in ("circuitlab", "circuitlab.model"):
        monkeypatch.setattr(f"{place}.load_model", load, raising=False)
    monkeypatch.setattr("circuitlab.workflows.prompts.FITNESS_PAIRS", 8)
    monkeypatch.setattr("circuitlab.workflows.circuit.Evaluate", partial(Evaluate, n_random=4, n_subsets=2, most_elements=0))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "own_pairs.csv").write_text((ROOT / "notebooks" / "own_pairs.csv").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.real_model
def test_the_python_example_runs_and_is_ten_lines(workplace, capsys) -> None:
    (code,) = blocks(README, "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "smollm2-135m on own_pairs can do the task (accuracy 1.00" in said
    assert re.search(r"Evaluation of 20 nodes.*\n +faithfulness: 0\.\d\d \[", said)
    assert re.search(r"own_pairs ~ ioi: Jaccard 0\.\d\d \[.*by chance 0\.\d\d", said)
    for name in ("heads.html", "attention.html"):
        assert (workplace / name).stat().st_size > 10_000


@pytest.mark.real_model
def test_the_five_commands_run(workplace, monkeypatch) -> None:
    monkeypatch.setenv("CIRCUITLAB_STORE", str(workplace / "runs"))
    lines = next(block for block in blocks(README, "bash") if "tasks check notebooks" in block).splitlines()
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line.removeprefix(".venv/bin/circuitlab "))
        few = {"score": ["-n", "2"], "circuit": ["-n", "2", "--random", "2"], "compare": ["-n", "2"]}.get(words[0], [])
        extra = [*few, "--method", "attribution_patching"] if few else []
        done = CliRunner().invoke(app, [*words, *extra, "--json"])
        assert done.exit_code == 0, (line, done.output, done.exception)
        assert json.loads(done.stdout)
    assert all((workplace / name).stat().st_size > 10_000 for name in ("heads.html", "attention.html"))


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    places = [ROOT, ROOT / "src" / "circuitlab", ROOT / "figures", (ROOT / page).parent]
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


def test_every_hop_of_one_call_stands_in_the_code() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## One call")[2].partition("\n## ")[0]
    hops = re.findall(r"^\d+\. (.*?)(?=^\d+\. |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    assert 5 <= len(hops) <= 10
    for hop in hops:
        name, path = re.match(r"`(\w+)` \(`([\w/.]+)`\)", hop).groups()  # type: ignore[union-attr]
        code = (ROOT / "src" / "circuitlab" / path).read_text(encoding="utf-8")
        assert re.search(rf"^(?:def|class) {name}\b", code, flags=re.MULTILINE), hop
