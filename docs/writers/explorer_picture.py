"""Draw the explorer's page of a study for the README: `make picture` (needs Chromium and the dev extra)."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 900}
QUIET = ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def draw(page_file: Path, picture: Path) -> None:
    """Open a page with the network off, in the light scheme, and save what its first screen shows."""
    browser = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit("There is no Chromium; on Debian: apt-get install chromium.")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=QUIET)
        page = opened.new_page(viewport=SIZE, color_scheme="light", offline=True)  # type: ignore[arg-type]
        page.goto(page_file.resolve().as_uri())
        page.get_by_role("grid").first.wait_for()
        page.screenshot(path=picture)
        opened.close()


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
