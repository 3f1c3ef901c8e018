"""Kill a study at random moments, again and again: is a file ever torn, a finished cell ever lost, a temporary file left behind?

    .venv/bin/python benchmarks/bench_kills.py                 200 kills (5 to 15 minutes)
    .venv/bin/python benchmarks/bench_kills.py --trials 20     the short version, as in the tests

A study of three tasks and three methods on a tiny random-weight Llama is run in a child process, which gets SIGKILL after a random time,
run again on the same store, until it is complete; then an empty store is begun. After every kill the whole store is read, and values of
finished cells are compared, bit for bit, with those of a run that was never killed. Linux only (fork).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from circuitlab.core.files import remove_leftovers
from circuitlab.model import load_model
from circuitlab.model.weights.folder import load_tokenizer
from circuitlab.model.weights.resolve import fetch
from circuitlab.store import HEAD_SCORES, Cache
from circuitlab.studies.results import finished
from circuitlab.studies.run import run_study
from circuitlab.studies.types import MethodEntry, StudySpec, TaskEntry

METHODS = ("logit_attribution", "attribution_patching", "activation_patching")
TASKS = ("ioi", "successor", "greater_than")


def study_of(tasks: Sequence[str] = TASKS, methods: Sequence[str] = METHODS, n: int = 6) -> StudySpec:
    """The study that is killed; its model is given to the run, and only named here."""
    entries = [TaskEntry(task) for task in tasks], [MethodEntry(method) for method in methods]
    return StudySpec(id="kills", title="Kills", model="smollm2-135m", n=n, tasks=entries[0], methods=entries[1])


def main() -> None:
    """Run the trials and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = trials(given.trials, given.seed, Path(folder), study_of())
    for name, count in counts.items():
        print(f"{count:6d}  {name}")


def trials(n: int, seed: int, folder: Path, study: StudySpec) -> dict[str, int]:
    """Counts of kills, completed studies, torn files, lost or changed cells, and files left behind."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads; the child uses none of them
    model, choose = tiny_model(), random.Random(seed)
    whole_run(model, study, folder / "imports")  # which count for the first run only
    began = time.perf_counter()
    whole_run(model, study, folder / "reference")
    reference = values(study, folder / "reference")
    longest = 1.1 * (time.perf_counter() - began)
    counts: Counter[str] = Counter({"kills": 0, "studies completed": 0, "torn files": 0, "lost cells": 0, "changed cells": 0})
    store = folder / "0"
    before: dict[str, np.ndarray] = {}
    while counts["kills"] < n:
        killed = run_and_kill(model, study, store, choose.uniform(0, longest))
        counts["kills"] += killed
        now, torn = read_all(study, store)
        counts["torn files"] += torn
        counts["lost cells"] += len(before.keys() - now.keys())
        counts["changed cells"] += sum(not np.array_equal(value, reference[cell]) for cell, value in now.items())
        before = now
        if not killed or len(now) == len(reference):
            counts["studies completed"] += len(now) == len(reference)
            store, before = folder / str(counts["kills"] + counts["studies completed"]), {}
    left = list(folder.rglob(".*.part"))
    for path in {path.parent for path in left}:
        remove_leftovers(path, older_than=0)
    return {
        **counts,
        "temporary files of killed writers": len(left),
        "of these left after the next run's cleaning": len(list(folder.rglob(".*.part"))),
    }


def tiny_model() -> Any:
    """A random-weight Llama of three layers with the default model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)  # forked children must not inherit a pool of threads
    tokenizer = load_tokenizer(fetch("smollm2-135m"), trust_remote_code=False)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    return load_model(LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)), tokenizer=tokenizer, name="tiny")


def whole_run(model: Any, study: StudySpec, store: Path) -> None:
    """The study, not disturbed."""
    run_study(study, Cache(store), load=lambda _name: model)


def run_and_kill(model: Any, study: StudySpec, store: Path, seconds: float) -> bool:
    """Run the study in a child for some seconds; whether it was killed before it ended."""
    child = os.fork()
    if child == 0:
        try:
            whole_run(model, study, store)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def values(study: StudySpec, store: Path) -> dict[str, np.ndarray]:
    """Scores of every finished cell."""
    cache = Cache(store)
    done = {cell.label: finished(cache, study, cell) for cell in study.cells()}
    return {label: cache.read(run).values("heads") for label, run in done.items() if run is not None}


def read_all(study: StudySpec, store: Path) -> tuple[dict[str, np.ndarray], int]:
    """Scores of every finished cell, and the number of stored runs that cannot be read."""
    if not store.is_dir():
        return {}, 0
    cache, torn = Cache(store), 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for run in cache.list():
            try:
                cache.read(run, HEAD_SCORES)
            except Exception:  # whatever it is, the file is torn
                torn += 1
        now = values(study, store)
    return now, torn + sum("damaged" in str(warning.message) for warning in caught)


if __name__ == "__main__":
    main()
