"""The tables of facts on the pages of methods: what the class says, and how it did on planted models."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from circuitlab.methods import method_classes
from circuitlab.model.toy import CIRCUITS, PlantedModel, planted_models
from circuitlab.workflows.planted import why_invisible
from circuitlab.workflows.planted.floors import FLOORS, MEASURES
from writers.page import DOCS, ROOT, citation, table

__all__ = ["END", "START", "method_pages", "overview"]

START, END = "<!-- facts: made by docs/write.py -->", "<!-- facts end -->"
_AUROC = MEASURES.index("auroc")


def method_pages() -> dict[str, str]:
    """Every page of a method with its facts as they are now; the text around them is kept."""
    models = list(planted_models())
    pages = {}
    for name, cls in method_classes().items():
        place = f"methods/{name}.md"
        path = DOCS / place
        if not path.exists():
            raise SystemExit(f"docs/{place} does not exist. Write what the method computes, and these two lines:\n{START}\n{END}")
        pages[place] = between(path.read_text(encoding="utf-8"), facts(cls, models), place)
    for place, new in (("methods.md", overview()), ("methods/planted.md", sight(models))):
        pages[place] = between((DOCS / place).read_text(encoding="utf-8"), new, place)
    return pages


def between(text: str, new: str, place: str) -> str:
    """A page with new text between the two marks."""
    if START not in text or END not in text:
        raise SystemExit(f"docs/{place} has no place for what is made from the code. Put these two lines there:\n{START}\n{END}")
    before, after = text.partition(START)[0], text.partition(END)[2]
    return f"{before}{START}\n\n{new}\n\n{END}{after}"


def stored() -> dict[str, dict[str, Any]]:
    """What `benchmarks/bench_methods.py` has measured, by method."""
    lines = (ROOT / "benchmarks/results/methods.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["method"]: line for line in map(json.loads, lines)}


def planted_score(name: str) -> str:
    """The stored AUROC on planted models; the floor that the tests hold, where no benchmark is stored."""
    line = stored().get(name)
    if line is None:
        mean = FLOORS[name][1][_AUROC]
        return f"{mean:.2f} or more (the floor that the tests hold)"
    seen = f"; {line['planted_visible']:.2f} on the {line['planted_seen']} that it can see" if line["planted_seen"] else "; it sees none"
    return f"{line['planted']:.2f} on {line['planted_models']} models{seen}"


def facts(cls: type[Any], models: Sequence[PlantedModel]) -> str:
    """What the class of a method says of itself, as a table of two columns."""
    rows = [
        ("name", f"`{cls.name}`, in Python `cl.methods.{cls.__name__}`"),
        ("estimates", cls.estimand),
        ("defaults", ", ".join(f"`{field.name}={field.default!r}`" for field in dataclasses.fields(cls)) or "none"),
        ("scores sum to the total", "yes" if cls.additive else "no"),
        ("cost", cls.cost),
        ("needs of the model", ", ".join(f"`{need}`" for need in cls.needs)),
        ("planted AUROC", planted_score(cls.name)),
    ]
    rows += [(f"cannot see: {', '.join(circuits)}", reason) for reason, circuits in blind(cls.name, models).items()]
    rows.append(("cite", "; ".join(map(citation, cls.cite))))
    return table(["", ""], rows)


def blind(name: str, models: Sequence[PlantedModel]) -> dict[str, list[str]]:
    """Planted circuits (or models, where only one of their forms) that a method cannot see, by the reason."""
    by_reason: dict[str, list[str]] = {}
    for circuit, (_, forms) in CIRCUITS.items():
        reasons = {model.name: why_invisible(name, model) for model in models if model.circuit == circuit}
        hidden = {model: reason for model, reason in reasons.items() if reason}
        for reason in dict.fromkeys(hidden.values()):
            of_reason = [model for model, given in hidden.items() if given == reason]
            by_reason.setdefault(reason, []).extend([circuit] if len(of_reason) == len(forms) else of_reason)
    return {reason: ["all"] if len(names) == len(CIRCUITS) else names for reason, names in by_reason.items()}


def overview() -> str:
    """All methods in one table, with links to their pages."""
    rows = []
    for name, cls in method_classes().items():
        rows.append([f"[`{name}`](methods/{name}.md)", cls.estimand, cls.cost, planted_score(name)])
    return table(["method", "estimates", "cost", "planted AUROC"], rows)


def sight(models: Sequence[PlantedModel]) -> str:
    """Which method sees which planted circuit."""
    circuits = list(CIRCUITS)
    rows = []
    for name in method_classes():
        cells = []
        for circuit in circuits:
            reasons = [why_invisible(name, model) for model in models if model.circuit == circuit]
            cells.append("-" if all(reasons) else "x" if not any(reasons) else "partly")
        rows.append([f"[`{name}`]({name}.md)", *cells])
    return table(["method", *[circuit.replace("_", " ") for circuit in circuits]], rows)
