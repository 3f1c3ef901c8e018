"""Every method on every shipped task and variant: seconds, self-checks, and whether the scores are finite or why the method refuses.

    .venv/bin/python benchmarks/bench_matrix.py --save                                 SmolLM2-135M (an hour)
    .venv/bin/python benchmarks/bench_matrix.py --save --model gemma3-270m --cheap     methods of a few passes per pair
    .venv/bin/python benchmarks/bench_matrix.py --only eap --task docstring            some cells, printed
    .venv/bin/python benchmarks/bench_matrix.py --table                                write docs/matrix.md from the saved lines

Methods run with their defaults on the first eight pairs of seed 0, cheap methods first. With ``--save`` every cell is kept as soon as it
is finished and cells that are there are not run again: interrupt it and start it anew. A method that refuses says why, and that is kept as
well; any other error ends the run.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from circuitlab.core.errors import CircuitlabError
from circuitlab.execute.contract import weights_only
from circuitlab.execute.cost import RunSize, forward_passes
from circuitlab.methods import get_method, list_methods
from circuitlab.tasks import list_tasks, load_task

if TYPE_CHECKING:
    from circuitlab.core.provenance import FitnessFlag
    from circuitlab.model.protocol import Model

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results" / "matrix.jsonl", HERE.parent / "docs" / "matrix.md"
_CHEAP = 10.0  # forward passes per pair
_KEY = ("model", "method", "task", "variant", "pairs")


class Cell(NamedTuple):
    """One method on one variant of one task."""

    method: str
    task: str
    variant: str


def main() -> None:
    """Run the cells that are asked for, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--only", action="append", choices=list_methods(), help="a method to run; repeatable")
    parser.add_argument("--task", action="append", choices=list_tasks(), help="a task to run on; repeatable")
    parser.add_argument("--cheap", action="store_true", help=f"only methods of at most {_CHEAP:g} forward passes per pair")
    parser.add_argument("-n", type=int, default=8, help="pairs")
    parser.add_argument("--save", action="store_true", help=f"keep the lines in {RESULTS.relative_to(HERE.parent)}, and go on from them")
    parser.add_argument("--table", action="store_true", help=f"write {PAGE.relative_to(HERE.parent)} and run nothing")
    given = parser.parse_args()
    if given.table:
        PAGE.write_text(page(saved()), encoding="utf-8")
        return
    known = {tuple(line[name] for name in _KEY) for line in saved()} if given.save else set()
    methods = [name for name in given.only or list_methods() if not given.cheap or passes(name) <= _CHEAP]
    todo = [cell for cell in cells(methods, given.task or list_tasks()) if (given.model, *cell, given.n) not in known]
    for line in run(given.model, todo, given.n):
        print(json.dumps(line), flush=True)
        if given.save:
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def saved() -> list[dict[str, Any]]:
    """Lines of earlier runs."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def passes(method: str) -> float:
    """About how many forward passes a method takes for one pair."""
    return forward_passes(get_method(method), RunSize(pairs=1))


def cells(methods: Iterable[str], tasks: Iterable[str]) -> list[Cell]:
    """Every cell, cheap methods first; methods that read weights alone have none, since they run no task."""
    methods = [name for name in methods if not weights_only(get_method(name))]
    places = [(task, variant) for task in tasks for variant in load_task(task).variants]
    return [Cell(method, *place) for method in sorted(methods, key=passes) for place in places]


def run(name: str, todo: Iterable[Cell], pairs: int) -> Iterator[dict[str, Any]]:
    """One line for each cell. The model is judged once on each variant of a task."""
    from circuitlab.model import load_model
    from circuitlab.workflows.fitness import check_task
    from circuitlab.workflows.score import FITNESS_PAIRS

    model = load_model(name)

    @functools.cache
    def fitness(task: str, variant: str) -> FitnessFlag:
        return check_task(model, task, max(pairs, FITNESS_PAIRS), variant=variant, least=pairs).flag()

    for cell in todo:
        flag = fitness(cell.task, cell.variant)
        yield {"model": name, **cell._asdict(), "pairs": pairs, **measured(model, cell, pairs, flag)}


def measured(model: Model, cell: Cell, pairs: int, flag: FitnessFlag) -> dict[str, Any]:
    """Seconds and self-checks of one cell, or the reason why it is refused."""
    from circuitlab.metrics import get_metric
    from circuitlab.model.prepare import prepare_batch
    from circuitlab.workflows.score import run_checks, score_batch

    batch = prepare_batch(model, cell.task, pairs, variant=cell.variant)
    started = time.perf_counter()
    try:
        scores = score_batch(model, batch, get_method(cell.method), get_metric(batch.metric), fitness=lambda: flag).scores
    except CircuitlabError as error:
        return {"seconds": time.perf_counter() - started, "refused": str(error), "checks": {}}
    return {"seconds": time.perf_counter() - started, "refused": None, "checks": run_checks(scores)}


def page(lines: list[dict[str, Any]]) -> str:
    """The matrix of every model in Markdown."""
    parts = [
        "# Every method on every task\n",
        "Made by `benchmarks/bench_matrix.py --table`. Cells are seconds for eight pairs, without loading the model and judging the task.",
        "Each is one run, beside whatever else the machine did: read them as orders of magnitude.",
        "A cell stands in *italics* where the model does not do the task well enough (`circuitlab tasks check`). A number leads to a note",
        "under the table, where a self-check failed or the method refused. The scores of every cell with seconds are finite.\n",
    ]
    for model in dict.fromkeys(line["model"] for line in lines):
        parts += [f"## {model}\n", table([line for line in lines if line["model"] == model]), ""]
    return "\n".join(parts)


def table(lines: list[dict[str, Any]]) -> str:
    """One model's cells, tasks downwards and methods across, and the notes under it."""
    methods = list(dict.fromkeys(line["method"] for line in lines))
    found = {(line["task"], line["variant"], line["method"]): line for line in lines}
    notes: list[str] = []
    rows = ["| task | variant | " + " | ".join(f"`{name}`" for name in methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for task, variant in sorted({(line["task"], line["variant"]) for line in lines}):
        shown = [_shown(found.get((task, variant, name)), notes) for name in methods]
        rows.append(f"| {task} | {variant} | " + " | ".join(shown) + " |")
    return "\n".join([*rows, "", *(f"{number}. {note}" for number, note in enumerate(notes, start=1))])


def _shown(line: dict[str, Any] | None, notes: list[str]) -> str:
    """One cell; what has to be said about it goes to the notes, the same thing once."""
    if line is None:
        return "not run"
    failed = [f"{name} is {one['value']:.3g}" for name, one in line["checks"].items() if not one["ok"] and name != "task_ready"]
    note = f"Refused: {line['refused']}" if line["refused"] else f"Self-check failed: {', '.join(failed)}." if failed else ""
    if note and note not in notes:
        notes.append(note)
    text = "refused" if line["refused"] else f"{line['seconds']:.1f}"
    ready = line["checks"].get("task_ready", {"ok": True})["ok"]
    return (text if ready else f"*{text}*") + (f" ({notes.index(note) + 1})" if note else "")


if __name__ == "__main__":
    main()
