"""The pages of the experiments, from their classes and from the records that are shipped with the package."""

from __future__ import annotations

from circuitlab.experiments import Experiment, experiment_classes
from circuitlab.experiments.catalogue import catalogue, shipped_records
from circuitlab.experiments.run import ExperimentRecord
from writers.page import citation, made_by, markdown, sections, table

__all__ = ["PICTURES", "experiment_pages", "picture_name"]

PICTURES = "images/experiments"

_INTRODUCTION = """# Experiments

What papers have reported of heads and circuits, asked of any model with one command. Each claim has a **rule**, written before any model
was measured, by which it counts as replicated; each experiment has a **gate**: where a model cannot do what the question presupposes,
nothing is measured, and every claim says that it cannot be asked. Chosen heads are compared with random heads of the same layers (of the
nearest ones where a layer has too few others), on prompts that chose nothing. A negative result is a result.

```bash
circuitlab experiment list
circuitlab experiment run memory_context --model smollm2-135m
```"""


def experiment_pages() -> dict[str, str]:
    """The table of all claims, and one page for each experiment."""
    records = {name: shipped_records(name) for name in experiment_classes()}
    pages = {"experiments/index.md": index(records)}
    for name, cls in experiment_classes().items():
        pages[f"experiments/{name}.md"] = one_experiment(cls, records[name])
    return pages


def index(records: dict[str, list[ExperimentRecord]]) -> str:
    """Every claim with its verdict by model, and the gates."""
    rows = [
        [f"[{cls.title}]({name}.md)", claim.claim, record.model["name"], claim.here or record.gate.reason, f"**{claim.verdict}**"]
        for name, cls in experiment_classes().items()
        for record in records[name]
        for claim in record.claims
    ]
    gates = [
        [f"[{one['title']}]({one['name']}.md)", model, "yes" if gate["met"] else "no", gate["reason"]]
        for one in catalogue()
        for model, gate in one["gates"].items()
    ]
    costs = [[f"[`{one['name']}`]({one['name']}.md)", one["question"], citation(one["cite"][0]), one["cost"]] for one in catalogue()]
    minutes = sum(int(one["cost"].split()[0]) for one in catalogue())
    total = f"`make papers` runs all of them: {minutes} minutes, the sum of these times. One that is stopped goes on where it was."
    parts = [
        made_by("the experiments and their shipped records"),
        _INTRODUCTION,
        "## All experiments",
        table(("experiment", "question", "paper", "time on smollm2-135m, one thread"), costs),
        total,
        "## What was published, and what was found",
        table(("experiment", "published", "model", "here", "verdict"), rows),
        "## Which model can be asked",
        table(("experiment", "model", "can be asked", "why"), gates),
    ]
    return "\n\n".join(parts) + "\n"


def one_experiment(cls: type[Experiment], records: list[ExperimentRecord]) -> str:
    """The question, how it is measured, what was published, and what each model shows."""
    text = sections(cls)
    opening, _, rest = markdown(text[""]).partition("\n\n")
    parts = [made_by("the experiment and its shipped records"), f"# {cls.title}", f"**{cls.question}**", opening, rest]
    parts += ["## What was published", table(("claim", "published", "counts as replicated if"), _claims(cls))]
    for record in records:
        parts += [f"## {record.model['name']}", record.gate.reason]
        if record.gate.met:
            rows = [(claim.claim, claim.here, f"**{claim.verdict}**") for claim in record.claims]
            parts.append(table(("published", "here", "verdict"), rows))
            for drawing in record.drawings():
                parts += [f"![{drawing.caption}](../{PICTURES}/{picture_name(record, drawing.name)})", drawing.caption]
    if cls.limits:
        parts += ["## Limits", "\n".join(f"* {limit}" for limit in cls.limits)]
    if notes := markdown(text.get("Notes", "")):
        parts += ["## Notes", notes]
    settings = ", ".join(f"`{name}`" for name in cls.__struct_fields__) or "none"
    parts += [
        "## Run it",
        f"Settings (`--param name=value`): {settings}.\n\n```bash\ncircuitlab experiment run {cls.name} --model smollm2-135m\n```",
    ]
    parts += ["## Cite", "\n".join(f"* {citation(key)}" for key in cls.cite)]
    return "\n\n".join(part for part in parts if part) + "\n"


def picture_name(record: ExperimentRecord, name: str) -> str:
    """File name of one figure of a record."""
    return f"{record.experiment}.{record.model['name']}.{name}.png"


def _claims(cls: type[Experiment]) -> list[tuple[str, str, str]]:
    return [(claim.claim, claim.published, claim.rule) for claim in cls.published]
