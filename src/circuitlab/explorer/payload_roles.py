"""Roles, prompts, attention and cards of a payload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from circuitlab.explorer.packed import pack
from circuitlab.explorer.snippets import attention_code
from circuitlab.scores.role_scores import LEVEL

if TYPE_CHECKING:
    from circuitlab.explorer.names import Names
    from circuitlab.explorer.sources import Sources
    from circuitlab.scores.role_scores import RoleScores

__all__ = ["attention_of", "cards_of", "prompts_of", "roles_of"]


def roles_of(sources: Sources, names: Names) -> list[dict[str, Any]]:
    """Roles of the models of the page."""
    pairs = ((names.model(role.provenance.model.identity()), role) for role in sources.roles)
    return [_role(model, role) for model, role in pairs if model is not None]


def _role(model: str, role: RoleScores) -> dict[str, Any]:
    about = role.provenance
    earning = f"Earned from {about.threshold:g} {about.units} on, if the value also stands clear of chance (q at most {LEVEL:g})."
    entry = {
        "model": model,
        "name": about.role,
        "title": about.role.replace("_", " "),
        "kind": about.kind,
        "estimand": about.estimand,
        "units": about.units,
        "threshold": about.threshold,
        "reason": f"{earning} Chance: {about.null}.",
        "null": about.null,
        "sample": about.sample,
        "n_samples": role.n_samples,
        "per": role.per,
        "value": pack(role.value),
        "chance": pack(role.chance()),
        "q": pack(role.q_values()),
        "earned": pack(role.earned(), "uint8"),
        "cite": list(about.cite),
    }
    if role.n_samples > 1:
        interval = role.interval()
        entry |= {"low": pack(np.asarray(interval.low)), "high": pack(np.asarray(interval.high))}
    return entry


def prompts_of(sources: Sources, names: Names) -> list[dict[str, Any]]:
    """Tokens of each task's pairs, as every model reads them."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for one in sources.prompts:
        model, task = names.model(one.model), names.task_of_prompts(one.task)
        if model is None or task is None or len(entries.get((model, task), {"pairs": ()})["pairs"]) >= len(one.pairs):
            continue
        about = next(run.provenance for run in sources.runs if names.task(run.provenance) == task)
        entries[model, task] = {"model": model, "task": task, "pairs": list(one.pairs), "python": attention_code(about)}
    return [entries[model, task] for model in names.models for task in names.tasks if (model, task) in entries]


def attention_of(sources: Sources, names: Names) -> list[dict[str, Any]]:
    """Attention on the pairs of each task; of two records of the same prompt the first."""
    entries: dict[tuple[str, str, int, str], dict[str, Any]] = {}
    for one in sources.prompts:
        model, task = names.model(one.model), names.task_of_prompts(one.task)
        if model is None or task is None:
            continue
        for rows in one.attention:
            key = (model, task, int(rows["pair"]), str(rows["side"]))
            entries.setdefault(key, {"model": model, "task": task} | dict(rows))
    models, tasks = list(names.models), list(names.tasks)
    return [entries[key] for key in sorted(entries, key=lambda key: (models.index(key[0]), tasks.index(key[1]), *key[2:]))]


def cards_of(sources: Sources, names: Names) -> list[dict[str, Any]]:
    """What was measured of single heads; of two records of the same part the first."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for cards in sources.cards:
        model = names.model(cards.model)
        for head, parts in cards.parts.items() if model is not None else ():
            entry = entries.setdefault((str(model), head), {"model": model, "head": head})
            for name, part in parts.items():
                entry.setdefault(name, part)
    return list(entries.values())
