"""How large is a page of the explorer, and how long does it take to build one?

    .venv/bin/python benchmarks/bench_explorer.py                                 made-up data: 30 x 9 and 80 x 64 heads (seconds)
    .venv/bin/python benchmarks/bench_explorer.py figures/built/core/explorer.html    a page that was built, too

One line per page: megabytes of the whole file and of the largest parts of its data, and seconds. Exit code 1 where a page is above
its cap: 8 MB for 80 x 64 random heads, 5 MB for others. How long a browser takes to draw them is in ``tests/explorer``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from circuitlab.explorer.example import Example, example_payload
from circuitlab.explorer.page import explorer_page

CAPS = {"30 x 9": 5.0, "80 x 64": 8.0}
EXAMPLES = {
    "30 x 9": Example(),
    "80 x 64": Example(layers=80, heads=64, kv_heads=8, pairs=32, shown=2, length=20),
}
_BUILT_CAP = 5.0
_LARGEST = 4


def main() -> int:
    """Print one line per page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("built", nargs="*", type=Path, help="pages that were built")
    above = []
    for name, example in EXAMPLES.items():
        payload = example_payload(example)
        started = time.perf_counter()
        size = len(explorer_page(payload).encode()) / 1e6
        seconds = time.perf_counter() - started
        parts = sorted(((len(json.dumps(part)) / 1e6, key) for key, part in payload.items()), reverse=True)[:_LARGEST]
        shares = ", ".join(f"{key} {share:.2f}" for share, key in parts)
        print(f"{name} heads, made up: {size:.2f} MB of {CAPS[name]:g} ({shares}), written in {seconds:.2f} s")
        above += [name] if size >= CAPS[name] else []
    for path in parser.parse_args().built:
        size = path.stat().st_size / 1e6
        print(f"{path}: {size:.2f} MB of {_BUILT_CAP:g}")
        above += [str(path)] if size >= _BUILT_CAP else []
    if above:
        print(f"Above the cap: {', '.join(above)}")
    return int(bool(above))


if __name__ == "__main__":
    sys.exit(main())
