"""The report in a real headless Chromium, from file://, where one is installed; its structure is tested everywhere else."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from made_up_study import made_up_study

from circuitlab.studies.build import build_figures

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=30000",
    "--window-size=1200,2000",
    "--enable-logging=stderr",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH; the page's structure is tested in tests/unit/studies"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    file, store = made_up_study(folder)
    build_figures(file, store=store, out=folder / "built")
    return folder / "built"


def load(path, profile) -> tuple[str, str]:
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    return done.stdout, done.stderr


@pytest.mark.parametrize(("name", "plots"), [("report.html", 20), ("successor.activation_patching.heatmap.html", 1)])
def test_every_plot_is_drawn_and_nothing_is_reported_on_the_console(pages, tmp_path, name, plots) -> None:
    page, log = load(pages / name, tmp_path)
    assert len(re.findall(r'data-drawn="yes"', page)) == plots
    assert page.count('class="main-svg"') >= plots
    assert not re.findall(r"CONSOLE.*(?:Error|error|Refused|violates)", log)
