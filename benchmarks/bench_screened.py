"""Screened patching against exact patching of every head, in one run: seconds, patched heads, and whether the top k agree.

    .venv/bin/python benchmarks/bench_screened.py            16 pairs of ioi on smollm2-135m (about half a minute on 2 cores)
    .venv/bin/python benchmarks/bench_screened.py --json --task successor -k 10

Both run in this process, one after the other, three times; medians are given. Run nothing else beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import circuitlab as cl
from circuitlab.metrics import get_metric
from circuitlab.model.prepare import prepare_batch

_REPEATS = 3


def main() -> None:
    """Time both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("-n", "--pairs", type=int, default=16)
    parser.add_argument("-k", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="one JSON document (otherwise a short text)")
    asked = parser.parse_args()
    line = compared(asked)
    print(json.dumps(line) if asked.json else text_of(line))


def compared(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of both, and what they agree on."""
    model = cl.load_model(asked.model)
    batch = prepare_batch(model, asked.task, asked.pairs)
    metric = get_metric(batch.metric)
    methods = {"exact": cl.methods.ActivationPatching(parts="heads"), "screened": cl.methods.ScreenedPatching(parts="heads", k=asked.k)}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    scores: dict[str, Any] = {}
    for _ in range(_REPEATS):
        for name, method in methods.items():
            started = time.perf_counter()
            scores[name] = method(model, batch, metric)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    top = {name: [str(entry.node) for entry in found.top(asked.k)] for name, found in scores.items()}
    return {
        "model": asked.model,
        "task": asked.task,
        "pairs": batch.n_pairs,
        "k": asked.k,
        "seconds": medians,
        "share": medians["screened"] / medians["exact"],
        "same_top": top["exact"] == top["screened"],
        "measured": scores["screened"].provenance.measured,
    }


def text_of(line: dict[str, Any]) -> str:
    """Two lines for people."""
    measured, seconds = line["measured"], line["seconds"]
    said = "the same" if line["same_top"] else "NOT the same"
    return (
        f"{line['task']}, {line['pairs']} pairs on {line['model']}: exact {seconds['exact']:.1f} s, screened {seconds['screened']:.1f} s "
        f"({line['share']:.2f} of it)\n"
        f"top {line['k']}: {said}; {measured['patched']:.0f} of {measured['nodes']:.0f} heads patched, at most "
        f"{measured['missed_at_most']:.0f} of {measured['rest']:.0f} others beyond the last of them (95 % confidence)"
    )


if __name__ == "__main__":
    main()
