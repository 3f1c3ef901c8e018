"""Do overlap intervals hold the truth on real scores? 32 of 256 pairs drawn again and again, against the overlap of all 256.

    .venv/bin/python benchmarks/bench_coverage.py                    two methods, seven tasks (20 minutes, then 5)
    .venv/bin/python benchmarks/bench_coverage.py --methods logit_attribution,eap --tasks ioi,capitals,docstring
    .venv/bin/python benchmarks/bench_coverage.py --seed 1 --replacement
    .venv/bin/python benchmarks/bench_coverage.py --fixture          rewrite the maps that the unit tests resample

SmolLM2-135M. Each task's 256 pairs are a population, whose lists of the top 20 heads have the overlap that is to be held. Pairs are drawn
for each task by itself: without replacement, where 32 of 256 pairs err 6 % less than 32 new prompts would, or with it (``--replacement``),
where they err as new prompts do. Misses are counted by side: the truth below the lower limit, or above the upper one. Beside the
interval of `circuitlab compare` stand the percentile interval of the same resamples and its reflection at the estimate ("basic"). A task is
*settled* if lists from two halves of its population overlap by 0.6 or more on average: where they do not, the overlap of all 256 pairs is
itself mostly noise; coverage is given over all pairs of tasks and over those of settled ones. Scores are kept in ``--store``, so that only
the first run is slow.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from circuitlab.circuits.select import top_mask
from circuitlab.comparison.overlap import count_overlaps
from circuitlab.comparison.shared import MaskPair, resampled_masks, shared_count

FIXTURE = Path(__file__).parent.parent / "tests" / "unit" / "comparison" / "real_scores.npz"
MODEL, TASKS = "smollm2-135m", "ioi,successor,capitals,addition,greater_than,docstring,colored_objects"
_FIXED = {
    "attribution_patching": ("addition", "colored_objects", "docstring", "ioi"),
    "logit_attribution": ("capitals", "docstring", "ioi"),
}
_K, _SETTLED, _HALVES = 20, 0.6, 100

Limits = tuple[float, float]


class Drawn(NamedTuple):
    """What is picked from the pairs drawn of two tasks, and from resamples of them; how many pairs were drawn of each."""

    picked: MaskPair
    resampled: tuple[MaskPair, MaskPair]
    pairs: int


def main() -> None:
    """Score what is not stored, then draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="attribution_patching,relp", help="methods, separated by commas")
    parser.add_argument("--tasks", default=TASKS, help="tasks, separated by commas")
    parser.add_argument("--population", type=int, default=256, help="pairs that stand for all; a task that has fewer gives what it has")
    parser.add_argument("--pairs", type=int, default=32, help="pairs of a draw")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=1000, help="of each draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--replacement", action="store_true", help="draw pairs with replacement, as if the population had no end")
    parser.add_argument("--store", type=Path, help="run store in which scores are kept (the usual one otherwise)")
    parser.add_argument("--json", action="store_true", help="one JSON document per method (otherwise tables)")
    parser.add_argument("--fixture", action="store_true", help=f"write {FIXTURE.name} for the unit tests and stop")
    given = parser.parse_args()
    if given.fixture:
        write_fixture(given)
        return
    for method in given.methods.split(","):
        maps = dict(real_maps(method, given.tasks.split(","), given))
        found = {"method": method, **measured(maps, given)}
        print(json.dumps(found) if given.json else text_of(found), flush=True)


def real_maps(method: str, tasks: list[str], given: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Scores of every task's population, (pair, head), each task by its own metric."""
    from circuitlab.core.errors import BadParameterError
    from circuitlab.methods import get_method
    from circuitlab.metrics import get_metric
    from circuitlab.model import load_model
    from circuitlab.model.prepare import prepare_batch
    from circuitlab.store import Cache
    from circuitlab.workflows.score import score_batch

    model, store = load_model(MODEL), Cache(given.store)
    for task in tasks:
        try:
            batch = prepare_batch(model, task, given.population)
        except BadParameterError as error:
            raise SystemExit(f"{error}\nGive --population, or other --tasks.") from error
        metric = "logit_diff" if method == "logit_attribution" else batch.metric
        scores = score_batch(model, batch, get_method(method), get_metric(metric), store=store).scores
        yield task, scores.values("heads").reshape(scores.n_pairs, -1).astype(np.float64)


def measured(maps: dict[str, np.ndarray], given: argparse.Namespace) -> dict[str, Any]:
    """Coverage and width of each interval for each pair of tasks, and the summary over them."""
    halves = {task: halves_overlap(values) for task, values in maps.items()}
    settled = {task for task, overlap in halves.items() if overlap >= _SETTLED}
    rows = coverage(maps, given.pairs, draws=given.draws, resamples=given.resamples, seed=given.seed, replace=given.replacement)
    groups = {"all": rows, "settled": [row for row in rows if {row["task_a"], row["task_b"]} <= settled]}
    return {
        "population": {task: len(values) for task, values in maps.items()},
        "halves": halves,
        "rows": rows,
        "summary": {name: summary(some) for name, some in groups.items() if some},
    }


def halves_overlap(values: np.ndarray) -> float:
    """Mean Jaccard index of the lists that two random halves of the population give."""
    rng, half = np.random.default_rng(0), len(values) // 2
    orders = [rng.permutation(len(values)) for _ in range(_HALVES)]
    picks = [top(np.stack([values[part].mean(axis=0) for part in (order[:half], order[half:])])) for order in orders]
    return float(np.mean([jaccard(*pick) for pick in picks]))


def coverage(
    maps: dict[str, np.ndarray], pairs: int, *, draws: int, resamples: int, seed: int = 0, replace: bool = False
) -> list[dict[str, Any]]:
    """One row per pair of tasks: the overlap of the populations, mean estimate, coverage, misses by side and width of every interval."""
    rows = []
    for number, (a, b) in enumerate(itertools.combinations(maps, 2)):
        rng = np.random.default_rng([seed, number])
        truth = jaccard(*(top(maps[name].mean(axis=0)) for name in (a, b)))
        estimates, corrected, limits = [], [], {name: [] for name in INTERVALS}  # type: ignore[var-annotated]
        for draw in range(draws):
            one, two = (maps[name][rng.choice(len(maps[name]), pairs, replace=replace)] for name in (a, b))
            resampled = resampled_masks(one, two, top, paired=False, n=resamples, seed=draw)
            drawn = Drawn((top(one.mean(axis=0)), top(two.mean(axis=0))), resampled, pairs)
            estimates.append(jaccard(*drawn.picked))
            corrected.append(shared_count(*drawn).corrected_overlaps()["jaccard"])
            for name, interval in INTERVALS.items():
                limits[name].append(interval(drawn))
        found = {name: np.array(ends) for name, ends in limits.items()}
        rows.append(
            {
                "task_a": a,
                "task_b": b,
                "truth": truth,
                "estimate": float(np.mean(estimates)),
                "corrected": float(np.mean(corrected)),
                "coverage": {name: float(np.mean((e[:, 0] <= truth + 1e-9) & (truth <= e[:, 1] + 1e-9))) for name, e in found.items()},
                "truth_below": {name: float(np.mean(truth + 1e-9 < e[:, 0])) for name, e in found.items()},
                "truth_above": {name: float(np.mean(truth - 1e-9 > e[:, 1])) for name, e in found.items()},
                "width": {name: float(np.mean(e[:, 1] - e[:, 0])) for name, e in found.items()},
            }
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and least coverage and mean width of each interval."""
    found = {}
    for name in INTERVALS:
        rates = [row["coverage"][name] for row in rows]
        means = {key: float(np.mean([row[key][name] for row in rows])) for key in ("width", "truth_below", "truth_above")}
        found[name] = {"mean": float(np.mean(rates)), "least": min(rates), **means, "pairs_of_tasks": len(rows)}
    return found


def top(means: np.ndarray) -> np.ndarray:
    """The heads of the largest mean scores."""
    return top_mask(means, _K)


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Jaccard index of two lists."""
    return float(_jaccard((first & second).sum()))


def ours(drawn: Drawn) -> Limits:
    """The interval of ``circuitlab compare``."""
    found = shared_count(*drawn).intervals()["jaccard"]
    return float(found.low), float(found.high)


def percentile(drawn: Drawn) -> Limits:
    """Quantiles of resamples."""
    one, two = drawn.resampled[0]
    low, high = np.quantile(_jaccard((one & two).sum(axis=-1)), [0.025, 0.975])
    return float(low), float(high)


def basic(drawn: Drawn) -> Limits:
    """Quantiles of resamples, reflected at the estimate."""
    (low, high), estimate = percentile(drawn), jaccard(*drawn.picked)
    return 2 * estimate - high, 2 * estimate - low


def _jaccard(shared: np.ndarray) -> np.ndarray:
    return count_overlaps(shared, np.array(_K), np.array(_K))["jaccard"]


INTERVALS: dict[str, Callable[[Drawn], Limits]] = {"circuitlab": ours, "percentile": percentile, "basic": basic}


def text_of(found: dict[str, Any]) -> str:
    """Tables for people."""
    lines = [f"{found['method']} on {MODEL}, top {_K} heads"]
    lines += [f"  {task:18s} {n} pairs, halves overlap {found['halves'][task]:.2f}" for task, n in found["population"].items()]
    lines.append(f"  {'pair of tasks':36s} truth  estimate  corrected  " + "  ".join(f"{name:>10s}" for name in INTERVALS))
    for row in sorted(found["rows"], key=lambda row: row["coverage"]["circuitlab"]):
        rates = "  ".join(f"{row['coverage'][name]:10.2f}" for name in INTERVALS)
        named = f"{row['task_a']} ~ {row['task_b']}"
        lines.append(f"  {named:36s} {row['truth']:5.2f}  {row['estimate']:8.2f}  {row['corrected']:9.2f}  {rates}")
    for group, intervals in found["summary"].items():
        for name, one in intervals.items():
            counted = f"{one['pairs_of_tasks']} pairs of tasks ({group})"
            missed = f"truth below {one['truth_below']:.3f}, above {one['truth_above']:.3f}"
            lines.append(f"  {name:11s} {counted:30s} mean {one['mean']:.3f}  least {one['least']:.2f}  width {one['width']:.3f}  {missed}")
    return "\n".join(lines)


def write_fixture(given: argparse.Namespace) -> None:
    """Keep some tasks' scores for the unit tests, in half precision."""
    arrays = {
        f"{method}.{task}": values.astype(np.float16)
        for method, tasks in _FIXED.items()
        for task, values in real_maps(method, list(tasks), given)
    }
    np.savez_compressed(FIXTURE, **arrays)  # type: ignore[arg-type]
    print(f"{FIXTURE}: {', '.join(arrays)}, {FIXTURE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
