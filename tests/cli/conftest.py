"""A small world for the command line: a tiny checkpoint on the disk, a folder of tasks, an empty store."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from circuitlab.cli.main import run
from circuitlab.testing.tiny import tiny_hf

COLORS = ["red", "blue", "green", "black", "white", "pink", "gray", "brown"]
TASK = """
id = "colors"
version = 1
title = "Colors"
about = "Say the color again."
cite = ["wang2022"]
licence = "Own wording."
answers = [" {color}"]
foils = [" {other}"]
default_variant = "other_color"
templates = [{ name = "again", text = "Say {color:COLOR} again" }]

[source]
kind = "pools"
slots = { color = "colors", other = "colors" }
distinct = [["color", "other"]]

[variants.other_color]
about = "Another color."
swap = { COLOR = "{other}" }
"""


@dataclass
class Result:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def command(*arguments: str) -> Result:
    """Run a command in this process, with its output and exit code."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run(list(arguments))
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A Hugging Face folder: tiny random Llama with one token per word."""
    words = ["?", "Say", "again", *COLORS]
    vocab = {word: i for i, word in enumerate([*words[:2], *(f"▁{word}" for word in words[2:])])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_hf("llama").save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?").save_pretrained(folder)
    return folder


@pytest.fixture
def world(tmp_path, monkeypatch) -> Path:
    """The current folder of a user: tasks, a store that does not exist yet, and a cache of their own."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "pools.toml").write_text(f"colors = {json.dumps(COLORS)}\n", encoding="utf-8")
    (tasks / "colors.toml").write_text(TASK, encoding="utf-8")
    (tasks / "shades.toml").write_text(TASK.replace('"colors"\nv', '"shades"\nv').replace("Say {", "Say again {"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIRCUITLAB_TASKS", str(tasks))
    monkeypatch.delenv("CIRCUITLAB_STORE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def study(world, checkpoint) -> Path:
    """A study of two tasks and both methods on the tiny checkpoint."""
    file = world / "study.toml"
    text = f'id = "small"\ntitle = "Small"\nmodel = {json.dumps(str(checkpoint))}\nn = 3\n'
    for kind, names in (("methods", ("logit_attribution", "activation_patching")), ("tasks", ("colors", "shades"))):
        text += "".join(f'[[{kind}]]\n{"name" if kind == "methods" else "id"} = "{name}"\n' for name in names)
    file.write_text(text + '[compare]\nmethod = "activation_patching"\ntop_k = 4\n', encoding="utf-8")
    return file
