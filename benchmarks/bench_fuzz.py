"""Read files that are almost right, for some time: does every reader end in a result or a clear sentence, and touch nothing else?

    .venv/bin/python benchmarks/bench_fuzz.py                    two minutes
    .venv/bin/python benchmarks/bench_fuzz.py --seconds 3600 --seed 1
    .venv/bin/python benchmarks/bench_fuzz.py --only GraphML

Prints, for every reader, the trials and each different failure with the beginning of the file that shows it; exits with 1 if there is one.
The short version is tests/unit/test_fuzz.py.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fuzzing import targets, trial


def main() -> int:
    """Run the trials, reader by reader in turn, and print what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a reader's name")
    given = parser.parse_args()
    choose, trials, failures = random.Random(given.seed), Counter(), {}
    with tempfile.TemporaryDirectory() as folder:
        chosen = [target for target in targets(Path(folder)) if given.only in target.name]
        begin = time.monotonic()
        while time.monotonic() - begin < given.seconds:
            for target in chosen:
                place = Path(folder) / f"{target.file}-trial"
                if not place.exists():
                    place.mkdir()
                    target.setup(place)
                trials[target.name] += 1
                if problem := trial(target, place, choose):
                    kind = re.sub(r"[0-9]+|'[^']*'", "_", problem.partition(" on b")[0])
                    failures.setdefault(kind, problem)
    for name, count in trials.items():
        print(f"{count:7d}  {name}")
    print(f"{sum(trials.values()):7d}  trials, {len(failures)} kinds of failure")
    for problem in failures.values():
        print(f"  {problem}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
