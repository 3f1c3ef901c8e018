"""The widget in a real JupyterLab in headless Chromium, and the notebook that was saved there, converted to HTML and opened from a file."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from chromium import chromium

import circuitlab

pytestmark = pytest.mark.browser

SHOW = """
from circuitlab.explorer.example import Example, example_payload
from circuitlab.explorer.widget import Explorer
explorer = Explorer(example_payload(Example(layers=6, heads=4, kv_heads=2, pairs=4, shown=1, length=8)))
explorer
"""
READ = "print('the head is', explorer.state['node'], 'and the pins', explorer.state['pins'])"


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    folder: Path
    address: str
    token: str


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """JupyterLab on this machine only, with folders of its own, and a notebook of two cells."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SHOW.strip()), nbformat.v4.new_code_cell(READ)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "show.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython"}
    environment = os.environ | {name: str(folder / place) for name, place in own.items()}
    environment["PYTHONPATH"] = str(Path(circuitlab.__file__).parents[1])
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--LabApp.news_url="]
    log = (folder / "lab.log").open("w")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield wait_for(Lab(folder, f"http://127.0.0.1:{port}", token), server)
    finally:
        server.terminate()
        server.wait(timeout=60)
        log.close()


def wait_for(lab: Lab, server: subprocess.Popen) -> Lab:
    """Until the server answers."""
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{lab.address}/api/status?token={lab.token}", timeout=5):
                return lab
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start: {(lab.folder / 'lab.log').read_text()[-2000:]}")


@pytest.fixture(scope="module")
def saved(lab, browser) -> Path:
    """The notebook after its cells were run in the browser, the widget was used, and it was saved."""
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto(f"{lab.address}/lab/tree/show.ipynb?token={lab.token}&reset")
    page.locator(".jp-Notebook .jp-CodeCell").first.click()
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    widget = page.locator("[data-circuitlab-id]")
    widget.locator(".clx-app").wait_for()
    use_widget(page, widget)
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").nth(1).click()
    page.keyboard.press("Shift+Enter")
    page.get_by_text(re.compile(r"the head is a\d+\.h\d+ and the pins")).last.wait_for()
    page.keyboard.press("Control+s")
    file = lab.folder / "show.ipynb"
    for _ in range(120):
        if "the head is a2.h3" in file.read_text(encoding="utf-8"):
            break
        time.sleep(0.5)
    context.close()
    return file


def use_widget(page, widget) -> None:
    """Find a head and pin it, as in the page."""
    widget.get_by_label("Find a head").first.click()
    page.keyboard.type("a2.h3")
    page.keyboard.press("Enter")
    card = widget.locator("[data-panel=card]")
    assert card.locator("h2").inner_text() == "a2.h3"
    card.get_by_role("button", name="Pin").click()
    assert widget.locator("[data-pinned]").count() == 1
    page.wait_for_timeout(1000)  # the widget writes its state 0.2 s after the last change
    frame = page.locator("iframe[srcdoc]")
    assert not frame.is_visible(), "the stored page leaves the place to the live widget"


def test_the_widget_is_used_and_its_state_is_read_in_python(saved) -> None:
    outputs = nbformat.read(saved, 4).cells[1].outputs
    assert "".join(one.get("text", "") for one in outputs).strip() == "the head is a2.h3 and the pins ['a2.h3']"


def test_the_saved_notebook_converted_to_html_still_shows_the_explorer(saved, browser, tmp_path) -> None:
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(tmp_path), str(saved)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    context = browser.new_context(viewport={"width": 1500, "height": 1000})
    context.set_default_timeout(60_000)
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(("file:", "data:", "about:")) else route.abort())
    page = context.new_page()
    page.goto((tmp_path / "show.html").as_uri(), wait_until="domcontentloaded")
    frame = page.frame_locator("iframe[srcdoc]")
    frame.locator(".clx-app").wait_for()
    assert frame.locator("[data-panel=map]").get_by_role("grid").is_visible()
    assert page.locator("iframe[srcdoc]").bounding_box()["height"] > 600, "the frame sizes itself"
    frame.get_by_role("button", name="Circuit", exact=True).click()
    assert "hidden" in frame.locator("[data-hidden-count]").inner_text()
    context.close()
