"""The page on scaling: the cost model, what was measured against it, and what it says about large models under stated assumptions.

``python docs/writers/scaling.py --cpu-price 0.03 --gpu-price 1.8`` prints the last table with your own prices and rates.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "docs")]

from cost_model import METHODS, SHAPES, Prompts, Shape, operations  # noqa: E402 - benchmarks are no package

from writers.page import made_by, table  # noqa: E402

__all__ = ["Assumptions", "Cost", "costs", "scaling_page"]

RESULTS = ROOT / "benchmarks" / "results"
_WHOLE, _LEAST = 100, 0.01
"""From the first on times are shown without decimals; below the second prices are not shown."""

PROMPTS = Prompts(pairs=16, length=16, changed=8)

_ABOUT = """# Scaling

What does a run cost on a larger model? Almost all of the time goes into matrix products, and which of them cannot be avoided follows from
shapes alone. This page says how many there are, checks the count against measured times, and extrapolates.

All models here have random weights. They show speed, and tests on such models show exactness; they show nothing about what a language
model does."""

_MODEL = r"""## The cost model

A layer costs $c = 2(2 d\,k + 2 d\,h + 3 d\,m)$ operations for each token, with the width $d$, the widths of all keys $k$ and of all heads
$h$, and the width of the MLP $m$; attention adds $4h$ for each query and key. With $L$ layers, $H$ heads in each, $P$ pairs of $T$ tokens
that differ in the last $W$ positions:

| method | operations, leading term | grows with |
| --- | --- | --- |
| every head, exactly | $P \, H \, W \, c \, L^2 / 2$ | pairs, heads in a layer, changed positions, layers squared |
| every head at every position | $P \, H \, W^2 \, c \, L^2 / 4$ | the same, with changed positions squared |
| attribution patching, edge attribution | $P \, (T + 3W) \, c \, L$ | pairs, length, layers |

An edited run starts at its own layer and at the first changed position, and the last layer is computed at the answer position only.
`benchmarks/cost_model.py` has the whole count, and `tests/docs/test_scaling.py` compares it with one made from a loaded model
(`benchmarks/flops.py`). For two models of one depth, width enters through $H c$, which grows as $d^3$ if heads stay equally wide."""


@dataclass(frozen=True)
class Assumptions:
    """What the extrapolation assumes; none of it is measured here but the rate of one processor.

    Parameters
    ----------
    cpu_cores : int
        Processors that work on matrix products together, each at the measured rate.
    cpu_price, gpu_price : float
        Price of one processor, and of one GPU, for an hour, in any currency.
    gpu_tflops, gpu_share : float
        What a GPU's data sheet promises for dense products, in Tera-operations a second, and the share of it that is reached.
    """

    cpu_cores: int = 16
    cpu_price: float = 0.05
    gpu_price: float = 3.0
    gpu_tflops: float = 990.0
    gpu_share: float = 0.4

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name}={value} is not above 0.")


@dataclass(frozen=True)
class Cost:
    """Hours and money of one run."""

    cpu_hours: float
    cpu_money: float
    gpu_hours: float
    gpu_money: float


def costs(line: str, shape: Shape, assumed: Assumptions) -> Cost:
    """What a method costs on a model of this shape; on processors at the rate, and with the overhead, measured at the largest size."""
    largest = [measure for measure in _measured()["lines"] if measure["method"] == line][-1]
    needed = operations(shape, PROMPTS, line)
    core_hours = needed / (largest["gflops"] * 1e9) * (largest["seconds"] / largest["predicted"]) / 3600
    gpu_hours = needed / (assumed.gpu_tflops * assumed.gpu_share * 1e12) / 3600
    return Cost(core_hours / assumed.cpu_cores, core_hours * assumed.cpu_price, gpu_hours, gpu_hours * assumed.gpu_price)


def scaling_page(assumed: Assumptions | None = None) -> dict[str, str]:
    """The whole page."""
    extrapolated = _extrapolation(assumed or Assumptions())
    parts = [made_by("benchmarks/results/cost.json"), _ABOUT, _MODEL, _measurements(), extrapolated, _streaming()]
    return {"scaling.md": "\n\n".join(part for part in parts if part) + "\n"}


def _measured() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / "cost.json").read_text(encoding="utf-8"))
    return document


def _measurements() -> str:
    measured = _measured()
    rows = [
        [
            f"{line['layers']} x {line['d_model']}, {line['weights'] / 1e6:.0f}M",
            line["method"],
            f"{line['tflop']:.3g}",
            f"{line['gflops']:.0f}",
            _seconds(line["predicted"]),
            _seconds(line["seconds"]),
            f"{line['seconds'] / line['predicted']:.2f}",
        ]
        for line in measured["lines"]
    ]
    names = ("layers x width, weights", "method", "Tera-operations", "GEMM rate", "predicted, s", "measured, s", "measured / predicted")
    about = f"""## Measured against predicted

Two pairs of 16 tokens that differ in the last 8, {measured["dtype"]}, one thread, processor seconds. Predicted seconds
are the operations over the rate of a matrix product of the model's own MLP (GEMM rate, in Giga-operations a second), measured in the same
process around each run. `python benchmarks/bench_cost.py --save` measures again, `python docs/write.py` rewrites this
page."""
    exact = [line["seconds"] / line["predicted"] for line in measured["lines"][-2 * len(METHODS) :] if line["method"].startswith("every")]
    note = (
        f"On the two largest models exact patching takes {min(exact):.2f} to {max(exact):.2f} times the predicted time. Gradient methods "
        "are a few passes of few tokens: their products are small, the rest of the work weighs more, and the count is a lower bound."
    )
    return "\n\n".join([about, table(names, rows), note])


def _extrapolation(assumed: Assumptions) -> str:
    rows = []
    for name, shape in SHAPES.items():
        for line in METHODS:
            cost = costs(line, shape, assumed)
            needed = operations(shape, PROMPTS, line) / 1e15
            by_cpu, by_gpu = (_time(cost.cpu_hours), _price(cost.cpu_money)), (_time(cost.gpu_hours), _price(cost.gpu_money))
            rows.append([name, line, f"{needed:.3g}", *by_cpu, *by_gpu])
    names = ("model", "method", "Peta-operations", f"{assumed.cpu_cores} processors", "price", "one GPU", "price")
    about = f"""## Extrapolated to 8B and 70B

{PROMPTS.pairs} pairs of {PROMPTS.length} tokens that differ in the last {PROMPTS.changed}; shapes of Llama 3.1. This is arithmetic, not a
measurement, and it assumes:

* processors: {assumed.cpu_cores} of them, each with the rate and the overhead measured above for the largest model, in float32, and
  {assumed.cpu_price:g} for one processor and hour;
* a GPU: {assumed.gpu_tflops:g} Tera-operations a second on its data sheet for dense bfloat16, of which {assumed.gpu_share:.0%} are
  reached, and {assumed.gpu_price:g} an hour; float32 has a fraction of that; the few
  tokens of gradient methods do not keep a GPU busy, so that their times there are lower bounds;
* weights that are where they are needed: in memory, or streamed no slower than they are used. A 70B model in bfloat16 has
  {2 * SHAPES["70B"].weights / 1e9:.0f} GB of them, more than most GPUs hold.

Prices and rates are parameters, not claims: `python docs/writers/scaling.py --gpu-price 2 --gpu-share 0.3` prints the table for others.
No GPU was measured."""
    return f"{about}\n\n{table(names, rows)}"


_STREAMING = """## Streamed layer by layer

Measured by `benchmarks/bench_streaming.py --shape 1b` and `--shape 8b`: every head of a model with random bfloat16 weights is patched at
all changed positions of one pair, on one thread, with the weights of one layer in memory at a time and those of the next on their way.
Reduced precision is checked in the same run: a sample of effects is computed in float32 as well.

The share of the rate is operations / (processor seconds x GEMM rate). The operations are those that the sweep cannot avoid, as above;
those of the check are not counted. The processor seconds are those of the whole sweep, with reading, conversion of weights, both unedited
runs in float32, and the check; loading is not in them. The GEMM rate is that of a bfloat16 product of 1,280 positions with the MLP's input
projection, measured before and after the sweep on the same threads. A larger model has a larger share, because products grow as the square
of the width and everything between them as the width, and because the check is a smaller part of more heads. Predicted seconds come from
the rate just before the run, in seconds of the clock; where these are more than the processor seconds, the machine had other work."""

_STREAMED = {
    "weights_gib": "weights, GiB",
    "heads": "heads",
    "positions": "changed positions",
    "precision": "precision",
    "load_seconds": "seconds to load and test every layer",
    "load_peak_gib": "peak memory in GiB while loading",
    "predicted_seconds": "seconds, predicted",
    "seconds": "seconds, measured",
    "cpu_seconds": "processor seconds",
    "tflop": "Tera-operations",
    "gemm_gflops": "GEMM rate",
    "gemm_share": "share of the rate of a bfloat16 matrix product",
    "predicted_read_gb": "GB read, predicted",
    "read_gb": "GB read, measured",
    "waited_seconds": "seconds waited for reading",
    "predicted_peak_gib": "peak memory in GiB, predicted",
    "peak_gib": "peak memory in GiB, measured",
    "precision_error_rms": "error of an effect, root mean square",
    "precision_effect_rms": "effect, root mean square",
}
"""Entries of the results that are shown, with their names on the page."""


def _streaming() -> str:
    """What layer streaming measured, if its benchmark has been run."""
    path = RESULTS / "streaming.json"
    if not path.exists():
        return ""
    document = json.loads(path.read_text(encoding="utf-8"))
    lines = document if isinstance(document, list) else document.get("lines", [document])
    rows = [[words, *(_value(line.get(name)) for line in lines)] for name, words in _STREAMED.items()]
    return f"{_STREAMING}\n\n{table(['', *(line['model'] for line in lines)], rows)}"


def _value(value: Any) -> str:
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _seconds(value: float) -> str:
    return f"{value:.3g}"


def _time(hours: float) -> str:
    """Hours in hours, minutes or seconds, to two digits."""
    name, value = next((name, hours * scale) for name, scale in (("h", 1), ("min", 60), ("s", 3600)) if hours * scale >= 1 or name == "s")
    return f"{value:.2g} {name}" if value < _WHOLE else f"{value:.0f} {name}"


def _price(value: float) -> str:
    return "below 0.01" if value < _LEAST else f"{value:.2f}"


def main(words: Sequence[str] | None = None) -> None:
    """Print the extrapolation under other assumptions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in dataclasses.fields(Assumptions):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int if field.name == "cpu_cores" else float, default=field.default)
    given = parser.parse_args(words)
    print(_extrapolation(Assumptions(**vars(given))))


if __name__ == "__main__":
    main()
