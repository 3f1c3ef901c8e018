"""The committed front end is what its source builds, its types are those of the schema, and its own tests pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from npm_tools import BUILT, FRONT_END, install_packages, run_npm


@pytest.fixture(scope="module")
def packages() -> Path:
    return install_packages()


def test_building_it_again_gives_the_committed_file_byte_for_byte(packages, tmp_path) -> None:
    done = run_npm("run", "build", "--", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rebuilt = (tmp_path / "explorer.js").read_bytes()
    assert rebuilt == BUILT.read_bytes(), "src/circuitlab/explorer/static/explorer.js is stale: run `npm run build` in its frontend folder"


def test_types_formatting_and_generated_types_are_clean(packages) -> None:
    done = run_npm("run", "check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_unit_tests_of_the_front_end_pass(packages) -> None:
    done = run_npm("test")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def test_the_module_asks_for_nothing_and_writes_no_markup() -> None:
    text = BUILT.read_text(encoding="utf-8")
    assert text.isascii()
    requests = ("fetch(", "XMLHttpRequest", "WebSocket", "EventSource", "importScripts", "import(")
    for word in (*requests, "eval(", "new Function", "import.meta"):
        assert word not in text, word
    source = "\n".join(path.read_text(encoding="utf-8") for path in (FRONT_END / "src").rglob("*.ts*"))
    for word in ("innerHTML", "dangerouslySetInnerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "outerHTML"):
        assert word not in source, word


def test_files_of_the_front_end_stay_short() -> None:
    made = FRONT_END / "src" / "data" / "schema.ts"
    long = {path.name: n for path in (FRONT_END / "src").rglob("*.ts*") if path != made and (n := len(path.read_text().splitlines())) > 400}
    assert not long
