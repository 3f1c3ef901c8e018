"""The pages of the documentation: what is made from the code is current, code runs, commands exist, every method and name has its place."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest
import typer
import write
import yaml
from writers import methods, page, reference

import circuitlab as cl
from circuitlab.cli.main import app
from circuitlab.execute.needs import NEEDS
from circuitlab.methods import list_methods

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
SHELLS = ("bash", "shell", "console", "sh")
LANGUAGES = {"python", "{.python .no-run}", "pycon", "text", "toml", "csv", *SHELLS, ""}


@pytest.fixture(scope="module")
def current() -> dict[str, str]:
    return write.pages()


def fenced(place: str) -> list[tuple[str, str]]:
    """Language with what follows it, and code, of every block of a page."""
    text = (DOCS / place).read_text(encoding="utf-8")
    return re.findall(r"^```([^\n]*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def python_of(place: str) -> str:
    return "".join(code for language, code in fenced(place) if language == "python")


def commands_of(place: str) -> list[list[str]]:
    """The words of every command line of a page, without comments."""
    lines = [line for language, code in fenced(place) if language in SHELLS for line in code.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def parsed(words: list[str]) -> None:
    """Let the command line read a command without running it; an unknown command, option or value raises."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context("circuitlab", list(words))


def test_made_pages_are_current(current) -> None:
    stale = [place for place, text in current.items() if not (DOCS / place).exists() or (DOCS / place).read_text(encoding="utf-8") != text]
    assert stale == [], f"run: {page.COMMAND}"


def test_a_changed_fact_would_be_noticed(monkeypatch) -> None:
    cls = cl.methods.method_classes()["eap"]
    before = methods.facts(cls, [])
    monkeypatch.setattr(cls, "cost", "nothing")
    assert methods.facts(cls, []) != before


def test_every_block_has_a_language_that_is_checked() -> None:
    odd = {(place, language) for place in PAGES for language, _ in fenced(place) if language not in LANGUAGES}
    assert odd == set()


def test_python_that_does_not_run_says_why() -> None:
    unexplained = [place for place in PAGES for language, code in fenced(place) if language == "{.python .no-run}" and "#" not in code]
    assert unexplained == []


@pytest.fixture
def loaded_once(request, monkeypatch) -> None:
    """The default model is the one that other tests have loaded, and tasks are judged on few pairs; other models are loaded."""
    load = cl.load_model

    def load_model(model: object, **settings: object) -> object:
        return request.getfixturevalue("smollm2") if model == "smollm2-135m" and not settings else load(model, **settings)

    monkeypatch.setattr(cl, "load_model", load_model)
    monkeypatch.setattr("circuitlab.workflows.prompts.FITNESS_PAIRS", 4)


@pytest.mark.real_model
@pytest.mark.parametrize("place", [place for place in PAGES if python_of(place)])
def test_python_of_a_page_runs(place, loaded_once, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIRCUITLAB_STORE", str(tmp_path / "runs"))
    code = python_of(place)
    exec(compile(code, place, "exec"), {"__name__": "page"})
    assert capsys.readouterr().out.count("\n") >= code.count("\nprint(")


def test_doctests_on_pages_stand_in_docstrings() -> None:
    """They are run there, by test_examples.py."""
    sources = "\n".join(inspect.getdoc(cls) or "" for cls in cl.methods.roles.role_classes().values())  # type: ignore[attr-defined]
    shown = [code for place in PAGES for language, code in fenced(place) if language == "pycon"]
    assert shown
    assert [code for code in shown if code.strip() not in sources] == []


@pytest.mark.parametrize("place", [place for place in PAGES if commands_of(place)])
def test_commands_of_a_page_exist(place) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for words in commands_of(place):
        if words[0] == "make":
            assert words[1] in targets, words
        else:
            assert Path(words[0]).name == "circuitlab", words
            parsed(words[1:])


@pytest.mark.parametrize(("line", "says"), [("scroe ioi", "scroe"), ("score ioi --pears 3", "--pears"), ("score ioi -n many", "integer")])
def test_a_wrong_command_would_be_noticed(line, says) -> None:
    with pytest.raises(Exception, match=says):
        parsed(line.split())


def test_examples_run_for_every_method() -> None:
    for name in list_methods():
        place = f"methods/{name}.md"
        text = (DOCS / place).read_text(encoding="utf-8")
        assert python_of(place), place
        for heading in ("What it computes", "What is held fixed", "When it misleads", "Try it"):
            assert f"\n## {heading}\n" in text, (place, heading)
        assert "$$" in text, place
        ast.parse(python_of(place))


def test_needs_are_explained() -> None:
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text.partition("## What a method needs")[2], flags=re.MULTILINE)) == set(NEEDS)


def test_every_public_name_is_on_one_page_of_the_reference(current) -> None:
    directives = re.findall(r"^::: (\S+)$", "\n".join(current.values()), flags=re.MULTILINE)
    homes = [reference.home(name, thing) for name, thing in reference.public_names().items()]
    assert sorted(directives) == sorted(homes)
    assert len(set(homes)) == len(homes)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"[:-] ([\w/-]+\.md)$", text.partition("\nnav:")[2], flags=re.MULTILINE)
    assert sorted(listed) == PAGES


def test_links_of_llms_txt_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", (DOCS / "llms.txt").read_text(encoding="utf-8"))
    assert len(links) > 80
    for place, anchor in links:
        text = (DOCS / place).read_text(encoding="utf-8")
        assert not anchor or f"{{#{anchor}}}" in text or f"::: {anchor}\n" in text, (place, anchor)


def test_settings_load_nothing_from_the_network() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    assert settings["theme"]["font"] == "false"
    assert "repo_url" not in settings, "the theme would ask GitHub for its stars"
    assert not [value for key in ("extra_css", "extra_javascript") for value in settings.get(key, []) if "//" in value]
