"""Options shared by the commands that score tasks."""

from __future__ import annotations

import typer

__all__ = ["DEVICE", "FIGURE", "JSON", "MEMORY", "METHOD", "METRIC", "MODEL", "PAIRS", "PARAM", "SEED", "STORE", "STREAM", "TOP", "VARIANT"]

FIGURE = typer.Option(None, "--figure", help="Also write a figure to this file: an .html page that needs no network, or plotly .json.")
JSON = typer.Option(False, "--json", help="Print one JSON document.")
MODEL = typer.Option("smollm2-135m", "--model", help="Alias, path or hub name.")
METHOD = typer.Option("activation_patching", "--method", help="Method, see `circuitlab methods list`.")
PAIRS = typer.Option(16, "-n", "--pairs", min=1, help="Prompt pairs.")
VARIANT = typer.Option(None, "--variant", help="Variant of the task, that is, how prompts are corrupted (default: the task's own).")
SEED = typer.Option(0, "--seed", help="Seed of the stream of pairs.")
METRIC = typer.Option(None, "--metric", help="Metric (default: the task's own).")
PARAM = typer.Option([], "--param", help="Parameter of the method, name=value (JSON or text); repeatable.")
STORE = typer.Option(None, "--store", help="Folder of finished runs (default: $CIRCUITLAB_STORE or ./runs).")
STREAM = typer.Option(
    False, "--stream", help="Keep one layer at a time in memory, for models that are bigger than memory. The numbers are the same."
)
MEMORY = typer.Option(None, "--memory", help="Most memory of the whole process, such as 4GiB; the plan is printed before work starts.")
DEVICE = typer.Option(None, "--device", help="Where the model runs: cpu (default), cuda, cuda:1.")
TOP = typer.Option(20, "-k", "--top", min=1, help="How many heads to pick.")
