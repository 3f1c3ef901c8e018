"""Bad input: one clear sentence on standard error, exit code 2, nothing on standard output, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import TASK, command


def refused(*arguments: str) -> str:
    """The one line that a refused command says."""
    result = command(*arguments)
    assert result.code == 2, result
    assert result.out == ""
    assert "Traceback" not in result.err
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("Error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        ("tasks show colours", "Did you mean 'colors'"),
        ("tasks check colours", "Did you mean 'colors'"),
        ("tasks show colors --variant other_colour", "Did you mean 'other_color'"),
        ("score colors --model smolm2-135m", "Did you mean 'smollm2-135m'"),
        ("models path smollm-135m", "Did you mean 'smollm2-135m'"),
        ("models fetch smollm-135m", "Did you mean 'smollm2-135m'"),
        ("doctor gemma-270m", "Did you mean 'gemma3-270m'"),
        ("score colors --method activation_patchin", "Did you mean 'activation_patching'"),
        ("score colors --metric logit_dif", "Did you mean 'logit_diff'"),
        ("score colors --param direction=noisin", "Did you mean 'noising'"),
        ("score colors --param directon=noising", "Did you mean 'direction'"),
        ("circuit colours", "Did you mean 'colors'"),
        ("compare colors shade", "Did you mean 'shades'"),
        ("cite wang2021", "Did you mean 'wang2022'"),
    ],
)
def test_an_unknown_name_suggests_the_near_one(world, arguments, near) -> None:
    assert near in refused(*arguments.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("score colors --param direction", "has no value"),
        ("score colors --param direction=null", "direction"),
        ("score colors --param pairs_per_pass=[[1]]", "pairs_per_pass"),
        ("compare colors", "two different tasks"),
        ("compare colors colors", "two different tasks"),
        ("compare colors shades --method copying_score", "no difference between tasks"),
        ("score colors --method copying_score --metric logit_diff", "no answer that logit_diff could read"),
        ("score --method relp", "runs prompts, and no task is named"),
        ("score colors --memory much", "memory='much' is not an amount of memory"),
        ("study run nowhere.toml", "no study file nowhere.toml"),
        ("tasks show nowhere.toml", "no task file nowhere.toml"),
        ("models path smollm2-135m", "models fetch smollm2-135m"),
        ("score colors --model ./nowhere.gguf", "nowhere.gguf"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(world, arguments, says) -> None:
    assert says in refused(*arguments.split())


@pytest.mark.parametrize("word", ["scor", "task"])
def test_an_unknown_command_suggests_the_near_one(world, word) -> None:
    result = command(word)
    assert result.code == 2
    assert result.out == ""
    assert "Did you mean" in result.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("about =", "abuot ="), "abuot"),
        (('cite = ["wang2022"]', "cite = 3"), "cite"),
        (("{color:COLOR}", "{colour:COLOR}"), "colour"),
        (('color = "colors"', 'color = "colours"'), "colours"),
        (('distinct = [["color", "other"]]', 'distinct = [["color", "other", "third"]]'), "third"),
        (('id = "colors"', 'id = "colors"\npools = { colors = [] }'), "colors"),
        (('id = "colors"', 'id = "colors"\npools = { colors = ["red"] }'), "colors"),
        (("version = 1", "version ="), "colors.toml"),
    ],
)
def test_a_broken_task_file_is_one_sentence(world, change, says) -> None:
    text = TASK.replace(*change)
    assert text != TASK
    (world / "colors.toml").write_text(text, encoding="utf-8")
    (world / "pools.toml").write_text((world / "tasks" / "pools.toml").read_text(encoding="utf-8"), encoding="utf-8")
    assert says in refused("tasks", "show", "colors.toml")
    assert says in refused("score", "colors.toml", "--json")
    assert not (world / "cache").exists(), "no model was fetched for it"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('answers = [" {color}"]', 'answers = [" {color} again"]'), "token"),
        (('swap = { COLOR = "{other}" }', 'swap = { COLOR = "{other} {other}" }'), "aligned|length"),
    ],
)
def test_rows_that_never_fit_stop_the_run_with_their_reason(world, checkpoint, change, reason) -> None:
    (world / "tasks" / "colors.toml").write_text(TASK.replace(*change), encoding="utf-8")
    line = refused("score", "colors", "--model", str(checkpoint), "-n", "2")
    assert any(word in line for word in reason.split("|")), line


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('title = "Small"', 'titel = "Small"'), "titel"),
        (('id = "shades"', 'id = "shade"'), "Did you mean 'shades'"),
        (('name = "activation_patching"', 'name = "activation_patchin"'), "Did you mean 'activation_patching'"),
        (("n = 3", "n = 0"), ">= 1 - at `$.n`"),
        (("n = 3", 'n = "three"'), "n"),
        (("top_k = 4", "top_q = 4"), "top_q"),
    ],
)
def test_a_broken_study_file_is_found_before_anything_runs(world, study, change, says) -> None:
    text = study.read_text(encoding="utf-8")
    study.write_text(text.replace(*change), encoding="utf-8")
    assert study.read_text(encoding="utf-8") != text
    assert says in refused("study", "run", str(study))
    assert not (world / "runs").exists()


def test_weights_that_are_foreign_or_cut_are_named(world, checkpoint) -> None:
    (world / "bad.gguf").write_bytes(b"PK\x03\x04 not weights")
    assert "bad.gguf is not a GGUF file" in refused("doctor", "bad.gguf")
    cut = world / "cut"
    cut.mkdir()
    for file in checkpoint.iterdir():
        data = file.read_bytes()
        (cut / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    assert "cut" in refused("score", "colors", "--model", str(cut))


def test_a_damaged_run_is_named_moved_aside_and_computed_again(world, checkpoint) -> None:
    arguments = ["score", "colors", "--model", str(checkpoint), "-n", "3", "--json"]
    first = command(*arguments)
    (file,) = (world / "runs").glob("*.nc")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="will be computed again"):
        again = command(*arguments)
    assert again.code == 0
    assert again.json["heads"] == first.json["heads"]
    assert list((world / "runs").rglob("*damaged*")), "the damaged file is kept beside the new one"


def test_a_killed_or_unfinished_study_says_what_to_run(world, study) -> None:
    line = refused("figures", "build", str(study), "--out", str(world / "built"))
    assert "4 of 4 cells" in line
    assert "circuitlab study run" in line
    assert not (world / "built").exists()


def test_a_traceback_comes_only_with_debug(world) -> None:
    commands = [[sys.executable, "-m", "circuitlab", "cite", "nobody"], [sys.executable, "-m", "circuitlab", "cite", "nobody", "--debug"]]
    plain, debug = (subprocess.run(words, check=False, capture_output=True, text=True, cwd=world) for words in commands)
    assert plain.returncode == 2
    assert plain.stdout == ""
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_a_fault_of_ours_is_exit_1_and_one_sentence(world, monkeypatch) -> None:
    def broken(*_) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("circuitlab.citations.keys_for", broken)
    result = command("cite", "ioi")
    assert result.code == 1
    assert "ZeroDivisionError: by zero" in result.err
    assert "--debug" in result.err


def test_an_interruption_says_that_finished_work_is_kept(world, monkeypatch) -> None:
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("circuitlab.citations.keys_for", interrupted)
    result = command("cite", "ioi")
    assert result.code == 130
    assert "kept" in result.err


def test_a_store_that_is_a_file_is_refused(world, checkpoint) -> None:
    Path("runs").write_text("not a folder", encoding="utf-8")
    assert "runs" in refused("score", "colors", "--model", str(checkpoint), "-n", "2")
