"""A finished study of made-up scores, for testing everything that is built from stored runs without a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from circuitlab.scores.head_scores import HeadScores
from circuitlab.store import HEAD_SCORES, Cache
from circuitlab.studies.load import load_study
from circuitlab.studies.results import record
from circuitlab.testing.fakes import fake_scores

__all__ = ["made_up_study"]

_STUDY = """
id = "made-up"
title = "A made-up study <of> nothing & nobody"
model = "made-up"
n = 8

[[methods]]
name = "logit_attribution"

[[methods]]
name = "activation_patching"

[[tasks]]
id = "successor"

[[tasks]]
id = "capitals"

[[tasks]]
id = "colored_objects"

[compare]
method = "activation_patching"
top_k = 5
"""


_SMALL = """
id = "made-up"
title = "A made-up study of one cell"
model = "made-up"
n = 8

[[methods]]
name = "activation_patching"

[[tasks]]
id = "successor"
"""


def made_up_study(folder: Path, *, unfinished: str = "", small: bool = False) -> tuple[Path, Cache]:
    """Write a study file and a store with a made-up run for every cell.

    Parameters
    ----------
    folder : Path
        Gets ``study.toml`` and ``runs/``.
    unfinished : str
        Task whose cells are left out.
    small : bool
        One task and one method: for tests of what happens to files, whatever is drawn in them.

    Returns
    -------
    tuple of Path and Cache
        Three tasks by two methods, 8 pairs, 6 layers of 4 heads; the model cannot do ``colored_objects``.
    """
    file = folder / "study.toml"
    file.write_text(_SMALL if small else _STUDY, encoding="utf-8")
    store = Cache(folder / "runs")
    study = load_study(file)
    for cell in study.cells():
        if cell.task.id != unfinished:
            scores = _made_up(cell.task.id, cell.method.name)
            run_id = scores.provenance.run_id()
            store.put(run_id, HEAD_SCORES, scores)
            record(store, study, cell, run_id)
    return file, store


def _made_up(task: str, method: str) -> HeadScores:
    generator = np.random.default_rng([*map(ord, task + method)])
    truth = np.zeros((6, 4))
    truth[4, 1], truth[5, 2], truth[3, generator.integers(4)] = 1.2, -0.8, 0.6
    heads = truth + generator.normal(0, 0.1, (8, 6, 4))
    mlps = generator.normal(0.2, 0.4, (8, 6))
    scores = fake_scores(heads, task=task, mlps=mlps, ready=task != "colored_objects", additive=method == "logit_attribution")
    return replace(scores, provenance=msgspec.structs.replace(scores.provenance, method=method))
