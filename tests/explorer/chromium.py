"""A page of the explorer in a headless Chromium that has no network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from npm_tools import unavailable

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
OWN = ("file:", "data:", "blob:", "about:")
"""Addresses of the page itself."""
_CLOCK = """
new MutationObserver((_, observer) => {
  if (!document.querySelector(".clx-app [role=grid]")) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { window.drawnAfter = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""
"""Milliseconds from the start of loading to a map that is painted and answers, in ``window.drawnAfter``."""
DESKTOP, PHONE = {"width": 1366, "height": 900}, {"width": 390, "height": 844}


@dataclass
class Visit:
    """A page that is open, what it asked for, and what it complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def require_quiet(self) -> None:
        """No request left the page, and nothing went wrong in it."""
        assert [url for url in self.requests if not url.startswith(OWN)] == []
        assert self.complaints == []


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, or a reason to skip."""
    try:
        from playwright import sync_api as playwright
    except ImportError:
        unavailable("playwright is not installed; it comes with circuitlab[dev].")
    if BROWSER is None:
        unavailable("There is no Chromium on PATH; the front end's own tests run without one.")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, address: str, *, scheme: str = "light", phone: bool = False) -> Iterator[Visit]:
    """Open an address; every request that is not for a file is refused."""
    context = browser.new_context(
        viewport=PHONE if phone else DESKTOP, color_scheme=scheme, is_mobile=phone, has_touch=phone, accept_downloads=True
    )
    context.set_default_timeout(20_000)
    context.add_init_script(_CLOCK)
    page = context.new_page()
    seen = Visit(page)
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(OWN) else route.abort())
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("console", lambda message: seen.complaints.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".clx-app")
    yield seen
    context.close()


def accessibility_problems(page: Any, axe: Path) -> list[str]:
    """Serious and critical findings of axe-core on what is shown."""
    page.evaluate(axe.read_text(encoding="utf-8"))
    found_by_axe = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{one['id']} ({one['impact']}): {[node['html'][:160] + ' | ' + node['failureSummary'][:200] for node in one['nodes'][:3]]}"
        for one in found_by_axe
        if one["impact"] in {"serious", "critical"}
    ]
