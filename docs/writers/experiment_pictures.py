"""Draw the figures of the shipped experiments for their pages: `make experiment-pictures` (needs Chromium and the dev extra)."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))

from circuitlab.experiments import experiment_classes
from circuitlab.experiments.catalogue import shipped_records
from circuitlab.figures.page import figure_json, figure_page
from writers.experiments import PICTURES, picture_name
from writers.page import DOCS

__all__ = ["INDEX", "drawn_from"]

INDEX = "drawn_from.json"
QUIET = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def drawn_from() -> dict[str, str]:
    """Hash of the data of every figure, by the name of its picture: a picture whose figure has changed is stale."""
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, (text, _) in _figures().items()}


def _figures() -> dict[str, tuple[str, object]]:
    return {
        picture_name(record, drawing.name): (figure_json(drawing.figure), drawing.figure)
        for name in experiment_classes()
        for record in shipped_records(name)
        for drawing in record.drawings()
    }


def main() -> None:
    """Draw the pictures whose figures have changed, and remove those of figures that are gone."""
    folder = DOCS / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / INDEX
    before = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    now = drawn_from()
    stale = [name for name, value in now.items() if before.get(name) != value or not (folder / name).exists()]
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as scratch:
        browser = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
        if browser is None:
            raise SystemExit("There is no Chromium; on Debian: apt-get install chromium.")
        opened = driver.chromium.launch(executable_path=browser, args=QUIET)
        page = opened.new_page(viewport={"width": 1800, "height": 1400}, device_scale_factor=1.5, color_scheme="light", offline=True)  # type: ignore[arg-type]
        for name in stale:
            _draw(page, _figures()[name][1], Path(scratch) / "figure.html", folder / name)
            print(f"docs/{PICTURES}/{name}")
        opened.close()
    for path in folder.glob("*.png"):
        if path.name not in now:
            path.unlink()
    index.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _draw(page: Page, figure: object, html: Path, picture: Path) -> None:
    html.write_text(figure_page(figure, "figure", alone=True), encoding="utf-8")  # type: ignore[arg-type]
    page.goto(html.resolve().as_uri())
    plot = page.locator("[data-drawn=yes]").first
    plot.wait_for()
    plot.screenshot(path=picture)


if __name__ == "__main__":
    main()
