"""The payload: everything a page shows as one JSON object; see docs/explorer-data.md."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from circuitlab.citations import CITATIONS, bibtex
from circuitlab.core.errors import BadParameterError
from circuitlab.explorer.names import Names
from circuitlab.explorer.payload_circuits import circuits_of
from circuitlab.explorer.payload_compare import dissociations_of, overlap_of, transfer_of
from circuitlab.explorer.payload_roles import attention_of, cards_of, prompts_of, roles_of
from circuitlab.explorer.payload_scores import methods_of, models_of, scores_of, tasks_of
from circuitlab.explorer.snippets import page_code
from circuitlab.scores.role_scores import LEVEL

if TYPE_CHECKING:
    from circuitlab.explorer.sources import Sources

__all__ = ["SCHEMA_NAME", "build_payload", "payload_json"]

SCHEMA_NAME = "circuitlab.explorer/1"
"""Version of the layout, which every payload names."""


def build_payload(sources: Sources) -> dict[str, Any]:
    """Put everything that is stored into the layout of `circuitlab.explorer.schema.payload_schema`; equal sources give equal payloads.

    Parameters
    ----------
    sources : Sources
        Scores and what was measured beside them. No model is needed.

    Returns
    -------
    dict
        Plain data. What was not stored is absent, with the reason in ``absent``.

    Raises
    ------
    BadParameterError
        If there are no runs.

    Examples
    --------
    >>> import numpy as np
    >>> from circuitlab.explorer.sources import Sources
    >>> from circuitlab.testing.fakes import fake_scores
    >>> payload = build_payload(Sources((fake_scores(np.random.default_rng(0).normal(size=(8, 2, 4))),)))
    >>> payload["scores"][0]["n_pairs"], payload["absent"]["attention"].split(";")[0]
    (8, 'Attention was not stored')
    """
    if not sources.runs:
        raise BadParameterError("There are no scores to explore.", "Score a task first: `circuitlab score ioi`.")
    names = Names(sources.runs)
    circuits, unevaluated = circuits_of(sources, names)
    overlap, uncompared = overlap_of(sources)
    payload: dict[str, Any] = {
        "schema": SCHEMA_NAME,
        "title": sources.title or _title(names),
        "level": LEVEL,
        "models": models_of(names),
        "tasks": tasks_of(sources, names),
        "methods": methods_of(sources),
        "scores": scores_of(sources, names),
        "prompts": prompts_of(sources, names),
        "roles": roles_of(sources, names),
        "attention": attention_of(sources, names),
        "cards": cards_of(sources, names),
        "circuits": circuits,
        "overlap": overlap,
        "transfer": transfer_of(sources, names),
        "dissociation": dissociations_of(sources, names),
    }
    payload["absent"] = _absent(payload, sources) | unevaluated | uncompared | dict(sources.refused)
    payload["provenance"] = _provenance(sources, names)
    payload["citations"] = _citations(payload)
    return payload


def payload_json(payload: Mapping[str, Any]) -> str:
    """The payload as JSON text; a number that JSON does not have (NaN) raises `ValueError`."""
    return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _title(names: Names) -> str:
    return f"{', '.join(names.tasks) or 'weights alone'}: {', '.join(names.models)}"


def _absent(payload: Mapping[str, Any], sources: Sources) -> dict[str, str]:
    """Why a list is empty, and the command that fills it."""
    about = sources.runs[0].provenance
    tasks = ",".join(dict.fromkeys(run.provenance.task.id for run in sources.runs if not run.weights_only))
    measure = f"circuitlab explore --tasks {tasks} --model {about.model.name} --measure"
    reasons = {
        "attention": f"Attention was not stored; run `{measure} attention`.",
        "prompts": f"Tokens of the prompts were not stored; run `{measure} attention`.",
        "roles": f"Roles were not stored; run `{measure} roles` or `circuitlab heads roles --model {about.model.name}`.",
        "cards": f"What heads write, why they look and what changes without them was not stored; run `{measure} cards`.",
        "transfer": "Transfer was not stored; a study with a [transfer] table measures it (`circuitlab study run`).",
        "dissociation": "Dissociation was not stored; a study with a [transfer] table measures it (`circuitlab study run`).",
        "overlap": "There are no two runs that differ in the task, the method or the model alone.",
    }
    if lacks := next((one.lacks for one in sources.prompts if one.lacks), ""):
        reasons["attention"] = lacks
    absent = {name: reason for name, reason in reasons.items() if not payload[name]}
    shown = {one["task"] for one in payload["attention"]}
    for task in payload["tasks"]:
        if payload["attention"] and task["id"] not in shown:
            absent[f"attention/{task['id']}"] = reasons["attention"]
    if not any("on_text" in card for card in payload["cards"]):
        absent["cards/on_text"] = f"Heads on natural text were not stored; run `{measure} text`."
    if not any("edges" in circuit for circuit in payload["circuits"]):
        absent["circuits/edges"] = f"Scores of edges were not stored; run `{measure} edges`."
    absent |= {
        f"methods/{one['name']}": (
            f"Its score on planted circuits was not stored: a study with a [planted] table stores it, "
            f"and `circuitlab bench planted --method {one['name']}` prints it."
        )
        for one in payload["methods"]
        if "planted" not in one
    }
    return absent


def _provenance(sources: Sources, names: Names) -> dict[str, Any]:
    methods = list(dict.fromkeys(run.provenance.method for run in sources.runs))
    tasks, specs = list(dict.fromkeys(ref.id for ref in names.tasks.values())), list(names.models.values())
    command = f"circuitlab explore --tasks {','.join(tasks)} --methods {','.join(methods)} --model {specs[0].name} -o page.html"
    if len(specs) > 1 or specs[0].edits:
        command = "# a command shows one model as it was loaded; for several, or an edited one, use the Python"
    made_by = {"python": page_code(specs, tasks, methods), "command": command} | dict(sources.made_by)
    return {
        "versions": {"circuitlab": importlib.metadata.version("circuitlab")},
        "runs": [run.provenance.run_id() for run in sources.runs],
        **made_by,
    }


def _citations(payload: Mapping[str, Any]) -> dict[str, str]:
    """BibTeX of circuitlab and of everything the page cites."""
    keys = [key for name in ("tasks", "methods", "roles") for one in payload[name] for key in one.get("cite", ())]
    version = payload["provenance"]["versions"]["circuitlab"]
    own = f"@software{{circuitlab,\n  title = {{circuitlab}},\n  author = {{The circuitlab developers}},\n  version = {{{version}}}\n}}"
    return {"circuitlab": own} | {key: bibtex(key) for key in dict.fromkeys(keys) if key in CITATIONS}
