"""A notebook that was executed and saved with its widgets, converted by plain `jupyter nbconvert --to html`, still shows the explorer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from chromium import OWN, chromium
from nbclient import NotebookClient

pytestmark = pytest.mark.browser

STATE = "application/vnd.jupyter.widget-state+json"
SHOW = """
from circuitlab.explorer.example import Example, example_payload
from circuitlab.explorer.widget import Explorer
Explorer(example_payload(Example(layers=6, heads=4, kv_heads=2, pairs=4, shown=1, length=8)))
"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """The HTML file; the notebook also holds the state of its widgets, which makes a converter ask a server for their front end."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SHOW.strip())])
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    assert any("payload" in model["state"] for model in notebook.metadata["widgets"][STATE]["state"].values())
    nbformat.write(notebook, folder / "saved.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to", "html", str(folder / "saved.ipynb")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / "saved.html"


def open_offline(browser, file: Path, **options):
    """A page whose requests to servers all fail."""
    context = browser.new_context(viewport={"width": 1500, "height": 1000}, **options)
    context.set_default_timeout(60_000)
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(OWN) else route.abort())
    page = context.new_page()
    page.goto(file.as_uri(), wait_until="domcontentloaded")
    return page


def test_it_shows_the_page_and_no_picture_beside_it(converted, browser) -> None:
    page = open_offline(browser, converted)
    frame = page.frame_locator("iframe[srcdoc]")
    frame.locator(".clx-app").wait_for()
    assert frame.locator("[data-panel=map]").get_by_role("grid").is_visible()
    assert not page.locator("[data-circuitlab-picture]").is_visible()
    assert page.locator("iframe[srcdoc]").bounding_box()["height"] > 600, "the frame sizes itself"
    frame.get_by_role("button", name="Circuit", exact=True).click()
    assert "hidden" in frame.locator("[data-hidden-count]").inner_text()
    page.context.close()


def test_it_shows_the_picture_where_no_script_runs(converted, browser) -> None:
    page = open_offline(browser, converted, java_script_enabled=False)
    picture = page.locator("[data-circuitlab-picture]")
    assert picture.is_visible()
    assert picture.bounding_box()["height"] > 50
    page.context.close()
