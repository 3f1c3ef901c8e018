"""The pages of the Python reference: every public name once, grouped as a user looks for it; mkdocstrings fills them in."""

from __future__ import annotations

import inspect
from typing import Any

import circuitlab as cl
from circuitlab import testing
from circuitlab.model.protocol import Model
from writers.page import first_paragraph, made_by, table

__all__ = ["names_by_page", "public_names", "reference_pages"]

SUBMODULES = ("circuits", "comparison", "errors", "exports", "figures", "interventions", "methods", "metrics", "texts")

PAGES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "models": (
        "Models and prompts",
        "Load a model, choose prompts, check that the model can do the task.",
        ("load_model", "Model", "load_task", "Task", "ContrastBatch", "check_task", "texts."),
    ),
    "scores": (
        "Scores",
        "Score every head, MLP or edge; read what came out.",
        ("score", "score_edges", "HeadScores", "EdgeScores", "Head", "metrics."),
    ),
    "methods": (
        "Methods",
        "A method is a frozen dataclass; give it to `cl.score` by class, instance or name. What each computes: [Methods](../methods.md).",
        ("methods.",),
    ),
    "circuits": (
        "Circuits",
        "From scores to a set of nodes or edges, and what that set does alone. How: [From scores to a circuit](../circuits.md).",
        ("find_circuit", "evaluate", "Circuit", "TopK", "TopEdges", "top_heads", "circuits."),
    ),
    "comparison": (
        "Comparison",
        "Are they the same heads? How: [Comparing circuits](../comparing.md).",
        ("compare", "transfer", "comparison."),
    ),
    "heads": (
        "Single heads",
        "What a head is, what it reads and writes, why it looks where it looks.",
        ("head_card", "head_on_text", "roles", "why_attends", "why_reads", "edge_loadings", "logit_lens"),
    ),
    "explorer": ("Explorer", "One page of everything that is known: [The explorer](../explorer.md).", ("explore", "explorer.")),
    "interventions": ("Interventions", "Change a model; the changed model is a model.", ("interventions.",)),
    "figures": ("Figures", "Pure functions from results to plotly figures; none needs a model or torch.", ("figures.",)),
    "studies": (
        "Studies, store, exports",
        "Many runs from one file, where results are kept, and files for other software.",
        ("Study", "Cache", "bench", "cite", "exports."),
    ),
    "errors": (
        "Errors",
        "Every error says what happened, with which values, and what to do next. See also the [FAQ](../faq.md).",
        ("errors.",),
    ),
    "testing": ("Laws for your own code", "Call these in your own tests.", ("testing.",)),
}
"""By file: title, what it is for, and the names in order; ``"figures."`` stands for all of that submodule that are not named elsewhere."""


def public_names() -> dict[str, Any]:
    """Every public name and what it stands for; of two names of one object the shorter."""
    names = {name: getattr(cl, name) for name in cl.__all__ if name not in SUBMODULES}
    for submodule in SUBMODULES:
        module = getattr(cl, submodule)
        names |= {f"{submodule}.{name}": getattr(module, name) for name in module.__all__}
    names |= {f"methods.{cls.__name__}": cls for cls in cl.methods.method_classes().values()}
    names |= {f"testing.{name}": getattr(testing, name) for name in testing.__all__}
    shortest: dict[int, str] = {}
    for name in sorted(names, key=lambda name: (name.count("."), name)):
        shortest.setdefault(id(names[name]), name)
    return {name: names[name] for name in sorted(shortest.values())} | {"Model": Model}


def names_by_page() -> dict[str, list[str]]:
    """The public names of every page, each on one."""
    left = dict.fromkeys(public_names())
    chosen: dict[str, list[str]] = {page: [] for page in PAGES}
    for wanted_all in (False, True):  # names first, then what is left of submodules
        for page, (_, _, wanted) in PAGES.items():
            for want in wanted:
                if want.endswith(".") == wanted_all:
                    names = [name for name in left if name == want or (wanted_all and name.startswith(want))]
                    chosen[page] += names
                    left = {name: None for name in left if name not in names}
    if left:
        raise SystemExit(f"docs/writers/reference.py has no page for {sorted(left)}: add them to PAGES.")
    return chosen


def reference_pages() -> dict[str, str]:
    """Every page of the reference and their index."""
    objects, pages = public_names(), {}
    by_page = names_by_page()
    index = [made_by("the public names"), "# Python reference", "`import circuitlab as cl`. Names are found when they are first used."]
    for page, (title, about, _) in PAGES.items():
        parts = [made_by("the public names"), f"# {title}", about]
        parts += [directive(name, objects[name]) for name in by_page[page]]
        pages[f"reference/{page}.md"] = "\n\n".join(parts) + "\n"
        rows = [[f"[`{shown(name)}`]({page}.md#{home(name, objects[name])})", summary(objects[name])] for name in by_page[page]]
        index += [f"## {title}", table(["name", "what it is"], rows)]
    return pages | {"reference/index.md": "\n\n".join(index) + "\n"}


def shown(name: str) -> str:
    """A name as a user types it."""
    return name if name.startswith("testing.") or name == "Model" else f"cl.{name}"


def home(name: str, thing: Any) -> str:
    """Where a name is defined, for mkdocstrings and its anchors."""
    if inspect.isclass(thing) or inspect.isfunction(thing):
        return f"{thing.__module__}.{thing.__qualname__}"
    module, _, last = name.rpartition(".")
    return f"{getattr(cl, module).__name__}.{last}"


def summary(thing: Any) -> str:
    """The first sentence of what a name stands for; nothing for plain values."""
    return first_paragraph(thing) if inspect.isclass(thing) or inspect.isfunction(thing) else ""


def directive(name: str, thing: Any) -> str:
    """The line that mkdocstrings replaces by the documentation of a name."""
    return f"::: {home(name, thing)}\n    options:\n      heading: {shown(name)}\n      toc_label: {shown(name)}"
