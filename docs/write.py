"""Write the pages that follow from the code, the tasks and the stored benchmarks: `.venv/bin/python docs/write.py`.

Pages of methods keep the text around their table of facts; the others are written whole. `tests/docs/test_pages.py` says when one is stale.
"""

from __future__ import annotations

from writers.commands import command_page
from writers.experiments import experiment_pages
from writers.llms import llms_text
from writers.methods import method_pages
from writers.page import DOCS
from writers.reference import reference_pages
from writers.roles import role_pages
from writers.scaling import scaling_page
from writers.tasks import notebook_page, task_page

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """Every page that is made, by its place under `docs/`."""
    writers = (method_pages, role_pages, task_page, notebook_page, experiment_pages, command_page, reference_pages, scaling_page, llms_text)
    return {place: text for writer in writers for place, text in writer().items()}


def main() -> None:
    """Write what has changed, and say so."""
    for place, text in pages().items():
        path = DOCS / place
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"docs/{place}")


if __name__ == "__main__":
    main()
