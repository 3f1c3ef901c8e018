"""The documentation builds without a warning, and what is built loads nothing from the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"'](?:https?:)?//|<link\b(?![^>]*rel=[\"']canonical)[^>]*\bhref=[\"'](?:https?:)?//",
    re.IGNORECASE,
)
FETCHED = re.compile(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//")


def build(settings: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(settings), "--site-dir", str(target)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", target)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return target


def test_every_page_is_built_and_formulas_need_no_script(site) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not (site / page).exists()} == set()
    text = (site / "methods" / "activation_patching.html").read_text(encoding="utf-8")
    assert "<math" in text
    for path in site.rglob("*.html"):
        assert 'class="arithmatex"' not in path.read_text(encoding="utf-8"), path.name


def test_nothing_is_loaded_from_the_network(site) -> None:
    for path in site.rglob("*.html"):
        assert not LOADED.search(path.read_text(encoding="utf-8")), path.name
    for path in site.rglob("*.css"):
        assert not FETCHED.search(path.read_text(encoding="utf-8")), path.name


def test_agents_find_their_file_and_its_pages(site) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# circuitlab\n\n> ")
    for place in set(re.findall(r"\]\(([^)#]+)", text)):
        assert (site / place).exists(), place


def test_a_broken_link_and_a_foreign_script_would_be_noticed(tmp_path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[b](nowhere.md)\n", encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text("site_name: a\nvalidation: {unrecognized_links: warn}\n", encoding="utf-8")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere.md" in done.stderr
    assert LOADED.search('<script src="https://cdn.example/a.js"></script>')
    assert LOADED.search('<link rel="stylesheet" href="//fonts.example/a.css">')
    assert FETCHED.search("@import 'https://fonts.example/a.css'")
