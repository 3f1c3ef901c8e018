"""Every registered method on SmolLM2-135M: seconds, peak memory, agreement with exact patching, and the grade on planted models.

    .venv/bin/python benchmarks/bench_methods.py --json                        every method (about ten minutes on 2 cores)
    .venv/bin/python benchmarks/bench_methods.py --json --only code_overlap
    .venv/bin/python benchmarks/bench_methods.py --save                        also keep the lines that the README's table is made from
    .venv/bin/python benchmarks/bench_methods.py --grades --save --only copying_score   only the grade, which no other load disturbs

Methods that read weights alone are run where they are named (`--only copying_score`), on no pairs. Every other method runs with its
defaults on the same 16 pairs of indirect object identification, in a process of its own: median of three runs,
or one run of a method that takes longer than half a minute. ``rank_correlation`` is Spearman's, of mean head scores with exact activation
patching in the method's own direction (noising where it has none); of magnitudes for a method whose scores have no sign. ``planted`` is
the mean AUROC over planted models, ``planted_visible`` over those whose circuit the method can see. Code overlap also says how its seconds
split. Run nothing else beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from circuitlab.execute.contract import weights_only
from circuitlab.methods import get_method, list_methods, method_classes

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "methods.jsonl"
GRADES = HERE.parent / "src" / "circuitlab" / "explorer" / "planted.json"
"""What pages of the explorer say of methods whose grade is not stored with the runs."""
_PAIRS = 16
_REPEATS, _LONG = 3, 30.0
_EXACT = "activation_patching"


def main() -> None:
    """Run the methods that are asked for (all that run prompts otherwise), or one measurement in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list_methods(), help="a method to run; repeatable")
    parser.add_argument("--json", action="store_true", help="one JSON document per line (otherwise a short text)")
    parser.add_argument("--save", action="store_true", help=f"write the lines to {RESULTS.relative_to(HERE.parent)}")
    parser.add_argument("--grades", action="store_true", help="measure the grade on planted models alone, and keep what else is stored")
    parser.add_argument("--seeds", type=int, default=3, help="prompt sets of every planted model")
    parser.add_argument("--worker", nargs=3, metavar=("METHOD", "PARAMS", "VALUES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measured(*given.worker)))
        return
    prompted = [name for name, cls in method_classes().items() if not weights_only(cls)]
    names, lines = given.only or prompted, []
    with tempfile.TemporaryDirectory() as folder:
        for line in graded_lines(names, given.seeds) if given.grades else all_lines(names, given.seeds, Path(folder)):
            lines.append(line)
            print(json.dumps(line) if given.json else text_of(line), flush=True)
    if given.save:
        save(lines)


def all_lines(names: list[str], seeds: int, folder: Path) -> Iterator[dict[str, Any]]:
    """One line per method; exact patching is run once per direction."""
    exact: dict[str, np.ndarray] = {}
    for name in names:
        found, values = in_its_own_process(name, {}, folder)
        direction = own_direction(name)
        if name == _EXACT:
            exact[direction] = values
        elif direction not in exact:
            exact[direction] = in_its_own_process(_EXACT, {"direction": direction}, folder)[1]
        yield {
            "method": name,
            "pairs": 0 if weights_only(method_classes()[name]) else _PAIRS,
            **found,
            "direction": direction,
            "rank_correlation": None if name == _EXACT else rank_correlation(name, values, exact[direction]),
            **planted_grade(name, seeds),
        }


def graded_lines(names: list[str], seeds: int) -> Iterator[dict[str, Any]]:
    """One line per method with its grade alone, beside what is stored of it."""
    old = {line["method"]: line for line in stored_lines()}
    for name in names:
        yield {"method": name, "pairs": 0} | old.get(name, {}) | planted_grade(name, seeds)


def in_its_own_process(name: str, params: dict[str, Any], folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """What a measurement prints, and the mean head scores (layer, head) that it stored."""
    values = folder / f"{name}.{len(params)}.npy"
    command = [sys.executable, str(Path(__file__)), "--worker", name, json.dumps(params), str(values)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found, np.load(values)


def measured(name: str, params: str, values: str) -> dict[str, Any]:
    """Run one method in this process; seconds, memory at the peak of the runs, and what the run measured itself."""
    import torch
    from prompts import batch_of
    from worker import _forget_peak, _peak_mb

    from circuitlab.metrics import LogitDiff
    from circuitlab.model import load_model

    torch.set_num_threads(2)
    model = load_model("smollm2-135m")
    batch = batch_of(model, "s2", _PAIRS)
    model.decoder.geometry(batch.clean.shape[1])
    method = get_method(name, json.loads(params))
    alone = weights_only(method)
    _forget_peak()
    seconds: list[float] = []
    while not seconds or (len(seconds) < _REPEATS and sum(seconds) < _LONG):
        started = time.perf_counter()
        scores = method(model) if alone else method(model, batch, LogitDiff())  # type: ignore[call-arg]
        seconds.append(time.perf_counter() - started)
    np.save(values, scores.mean("heads"))
    own = {key: value for key, value in scores.provenance.measured.items() if not key.startswith("precision")}
    return {"seconds": float(np.median(seconds)), "runs": len(seconds), "peak_mb": _peak_mb(), **own}


def own_direction(name: str) -> str:
    """Which direction of exact patching a method's default estimates: its own, or noising (an effect at the clean run)."""
    fields = method_classes()[name].__dataclass_fields__
    return str(fields["direction"].default) if "direction" in fields else "noising"


def rank_correlation(name: str, values: np.ndarray, exact: np.ndarray) -> float:
    """Spearman correlation of mean head scores, of magnitudes if the method's scores have no sign."""
    from scipy.stats import spearmanr

    unsigned = not getattr(method_classes()[name], "causal", True)
    pair = (np.abs(values), np.abs(exact)) if unsigned else (values, exact)
    return float(spearmanr(*(array.ravel() for array in pair)).statistic)


def planted_grade(name: str, seeds: int) -> dict[str, Any]:
    """Mean AUROC over all planted models, over those the method can see (None if there is none), and how many those are."""
    from circuitlab.workflows.planted import scoreboard

    board = scoreboard([name], seeds=seeds)
    seen = [one.auroc["mean"] for one in board if one.visible]
    return {
        "planted": float(np.mean([one.auroc["mean"] for one in board])),
        "planted_visible": float(np.mean(seen)) if seen else None,
        "planted_seen": len(seen),
        "planted_models": len(board),
    }


def save(lines: list[dict[str, Any]]) -> None:
    """Keep lines, and their grades for pages of the explorer; those of other methods that still exist stay."""
    kept = {line["method"]: line for line in [*stored_lines(), *lines]}
    RESULTS.parent.mkdir(exist_ok=True)
    listed = [kept[name] for name in list_methods() if name in kept]
    RESULTS.write_text("".join(json.dumps(line) + "\n" for line in listed), encoding="utf-8")
    GRADES.write_text(grades(listed), encoding="utf-8")


def stored_lines() -> list[dict[str, Any]]:
    """What was kept before."""
    return [json.loads(text) for text in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def grades(lines: list[dict[str, Any]]) -> str:
    """The planted part of lines, by method, as JSON."""
    fields = ("planted", "planted_visible", "planted_seen", "planted_models")
    return json.dumps({line["method"]: {name: line[name] for name in fields} for line in lines}, indent=1) + "\n"


def text_of(line: dict[str, Any]) -> str:
    """A line for people."""
    if "seconds" not in line:
        return f"{line['method']:26s} planted {line['planted']:.2f}, sees {line['planted_seen']} of {line['planted_models']}"
    agrees = "   -  " if line["rank_correlation"] is None else f"{line['rank_correlation']:6.3f}"
    split = "".join(f", {key.removesuffix('_seconds')} {line[key]:.1f} s" for key in line if key.endswith("_seconds"))
    graded = f"planted {line['planted']:.2f}, sees {line['planted_seen']} of {line['planted_models']}"
    return f"{line['method']:26s} {line['seconds']:7.2f} s  {line['peak_mb']:6.0f} MB  rank {agrees}  {graded}{split}"


if __name__ == "__main__":
    main()
