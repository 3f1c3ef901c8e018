"""The reference of tasks, from the files in `tasks/`, and the list of notebooks."""

from __future__ import annotations

import json

from circuitlab.tasks import Task, list_tasks, load_task, sample_pairs
from circuitlab.tasks.render import example_text
from writers.page import ROOT, citation, made_by, table

__all__ = ["notebook_page", "task_page"]

_INTRODUCTION = """# Tasks

A task is a stream of prompt pairs. The **clean** prompt calls for the *answer*, the **corrupt** one for the *foil*, and both have the same
number of tokens. The metric is the mean logit of the answers minus that of the foils at the last position. A *variant* is a way to corrupt
a prompt; it decides what the comparison holds fixed, so it is part of every result's identity. *Marks* name places in a prompt, for scores
by position; every prompt also has `END`. In the examples a marked word stands in brackets before its mark.

A task is *ready* for a model if the model can do it (`circuitlab tasks check TASK`): the interval of its accuracy lies above chance, the
accuracy reaches the gate, and the interval of the gap between clean and corrupt prompts lies above 0. Without a gate of its own a task's
gate is halfway between chance and 1.

`tasks/README.md` in the repository says how to bring a table of your own and how to write a task file; see also
[Your own prompts and models](your_own.md)."""


def task_page() -> dict[str, str]:
    """The page of all tasks."""
    specs = [load_task(name) for name in list_tasks()]
    rows = [[f"[`{spec.id}`](#{spec.id})", spec.title, ", ".join(f"`{name}`" for name in spec.variants)] for spec in specs]
    parts = [made_by("the files in tasks/"), _INTRODUCTION, table(["task", "title", "variants"], rows), *map(one_task, specs)]
    return {"tasks.md": "\n\n".join(parts) + "\n"}


def one_task(spec: Task) -> str:
    """A task: an example pair, variants, marks, gate, source."""
    example = next(sample_pairs(spec.id))
    gate = "halfway between chance and 1" if spec.checks.min_accuracy is None else f"accuracy {spec.checks.min_accuracy:g}"
    rows = [
        ("file", f"`tasks/{spec.id}.toml`"),
        ("metric", f"`{spec.metric}`"),
        ("gate", gate + ("; only pairs that the model gets right are kept" if spec.checks.known else "")),
        ("marks", ", ".join(f"`{mark}`" for mark in [*example.clean_marks, "END"])),
        ("wordings", str(len(spec.templates))),
        ("cite", "; ".join(map(citation, spec.cite)) or "none"),
        ("licence", spec.licence),
    ]
    variants = [
        [f"`{name}`" + (" (default)" if name == spec.default_variant and len(spec.variants) > 1 else ""), variant.about]
        for name, variant in spec.variants.items()
    ]
    return "\n\n".join(
        [
            f"## {spec.title} {{#{spec.id}}}",
            spec.about,
            f"```text\n{example_text(example)}\n```",
            table(["variant", "what is different in the corrupt prompt"], variants),
            table([f"`{spec.id}`", ""], rows),
        ]
    )


def notebook_page() -> dict[str, str]:
    """The page that lists the notebooks by what they say first."""
    rows = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title, _, rest = "".join(cells[0]["source"]).lstrip("# ").partition("\n")
        rows.append([f"`notebooks/{path.name}`", title, " ".join(rest.strip().partition("\n\n")[0].split())])
    text = (
        "# Notebooks\n\nThey lie in the repository with their outputs; `make notebooks` executes all of them, and the tests do so with few "
        "pairs. Open one with `.venv/bin/jupyter lab notebooks/`."
    )
    return {"notebooks.md": "\n\n".join([made_by("the files in notebooks/"), text, table(["file", "title", "about"], rows)]) + "\n"}
