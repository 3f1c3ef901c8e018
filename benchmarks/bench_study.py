"""Where does the time of a study go? Runs one from an empty store, builds its figures, and prints seconds by part.

    .venv/bin/python benchmarks/bench_study.py figures/core.toml --threads 2 --save          what `make figures` does (minutes)
    .venv/bin/python benchmarks/bench_study.py figures/every_method.toml --threads 2 --save  seven tasks, every method
    .venv/bin/python benchmarks/bench_study.py figures/quick.toml                            printed, and nothing kept

Every line is one cell, part of a cell or step of the build, without the lines that stand under it: processor seconds, which other work on
the machine changes little, seconds by the clock, which need a quiet machine, and the share of processor seconds. ``--save`` keeps the
numbers in ``benchmarks/results/studies.jsonl``, one line per study; ``benchmarks/table_studies.py`` writes the README's table from them.
With ``--store`` a store is kept and gone on from; its times are those of what it lacked, and are never saved.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "Clock", "Part", "kept", "line_of", "measure"]

RESULTS = Path(__file__).parent / "results" / "studies.jsonl"
_STEPS = ("collect", "draw_all", "study_page", "report_page", "figure_page", "figure_json", "_images", "analysis_tables")
"""Steps of a build that are timed by themselves, by their names in `circuitlab.studies.build`."""


@dataclass
class Part:
    """What one part took without the parts inside it: processor seconds, seconds by the clock, and how often it ran."""

    cpu: float = 0.0
    wall: float = 0.0
    times: int = 0


@dataclass
class Clock:
    """Divides time among named parts; a part inside another is counted once, in the inner one."""

    parts: dict[str, Part] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _last: tuple[float, float] = (0.0, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time that passes in this block belongs to the part of this name."""
        self._settle()
        self._open.append(name)
        self.parts.setdefault(name, Part()).times += 1
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def timed(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The same function, whose time belongs to the part of this name."""

        @functools.wraps(call)
        def inner(*args: Any, **named: Any) -> Any:
            with self.part(name):
                return call(*args, **named)

        return inner

    def _settle(self) -> None:
        now = (time.process_time(), time.perf_counter())
        if self._open:
            part = self.parts[self._open[-1]]
            part.cpu += now[0] - self._last[0]
            part.wall += now[1] - self._last[1]
        self._last = now


def measure(study_file: str, store: Path, out: Path, clock: Clock) -> list[str]:
    """Run a study and build its figures, and return what failed."""
    with clock.part("imports"):
        from circuitlab.explorer import measurements as explorer
        from circuitlab.model import load_model
        from circuitlab.store import Cache
        from circuitlab.studies import build
        from circuitlab.studies.load import load_study
        from circuitlab.studies.run import visit
        from circuitlab.studies.work import Work
        from circuitlab.workflows.terminal import SilentProgress

    for name, part in list(explorer.MEASURES.items()):
        explorer.MEASURES[name] = clock.timed(part, f"explorer: {name}")
    for name in _STEPS:
        setattr(build, name, clock.timed(getattr(build, name), f"build: {name.strip('_')}"))

    def one_by_one(work: Work, cells: Sequence[Any], _reporter: Any) -> list[Any]:
        results = []
        for cell in cells:
            with clock.part(cell.label):
                results.append(work.attempt(cell, wait=True))
        return [outcome[0] for outcome in results if outcome is not None]

    with clock.part("reading the study"):
        study, cache = load_study(study_file), Cache(store)
        work = Work.of(study, cache, load=clock.timed(load_model, "loading the model"))
    result = visit(work, None, SilentProgress(), one_by_one)
    with clock.part("build: files"):
        build.build_figures(study_file, store=cache, out=out)
    return [f"{cell.label}: {cell.error}" for cell in result.failed]


def line_of(study: str, threads: int, clock: Clock) -> dict[str, Any]:
    """What is kept of a measurement."""
    parts = {name: [round(part.cpu, 2), round(part.wall, 2)] for name, part in clock.parts.items()}
    cpu, wall = (sum(part[at] for part in parts.values()) for at in (0, 1))
    return {"study": study, "threads": threads, "cpu_seconds": round(cpu, 1), "seconds": round(wall, 1), "parts": parts}


def kept() -> list[dict[str, Any]]:
    """The lines of all studies that were measured."""
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def main() -> int:
    """Measure, print and, where it is asked for, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", help="a study file")
    parser.add_argument("--threads", type=int, default=1, help="threads of matrix products (default 1)")
    parser.add_argument("--store", type=Path, help="a store to keep and to go on from; a temporary one otherwise")
    parser.add_argument("--save", action="store_true", help=f"keep the numbers in {RESULTS.relative_to(RESULTS.parents[2])}")
    given = parser.parse_args()
    if given.save and given.store is not None:
        parser.error("--save needs an empty store: leave --store out.")
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="circuitlab-study-") as folder:
        failed = measure(given.study, given.store or Path(folder) / "runs", Path(folder) / "built", clock)
    line = line_of(Path(given.study).stem, given.threads, clock)
    for name, (cpu, wall) in sorted(line["parts"].items(), key=lambda item: -item[1][0]):
        print(f"{cpu:8.1f} s {wall:8.1f} s {cpu / line['cpu_seconds']:6.1%}  {name}")
    print(f"{line['cpu_seconds']:8.1f} s {line['seconds']:8.1f} s 100.0%  {line['study']}, {line['threads']} threads (processor, clock)")
    print("\n".join(f"failed: {one}" for one in failed), end="\n" if failed else "")
    if given.save and not failed:
        lines = sorted([*(one for one in kept() if one["study"] != line["study"]), line], key=lambda one: str(one["study"]))
        RESULTS.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
