"""``circuitlab tasks``."""

from __future__ import annotations

import itertools

import typer

from circuitlab.cli import options
from circuitlab.cli.output import interval_text, print_json, print_table, print_text

__all__ = ["app"]

app = typer.Typer(help="Tasks: list them, show their prompts, check whether a model can do them.", no_args_is_help=True)
_JSON = typer.Option(False, "--json", help="Print one JSON document.")
_VARIANT = typer.Option(None, "--variant", help="Variant of the task, that is, how prompts are corrupted (default: the task's own).")
_SEED = typer.Option(0, "--seed", help="Seed of the stream of pairs.")


@app.command("list")
def list_all(as_json: bool = _JSON) -> None:
    """List every task with its variants."""
    from circuitlab.tasks import list_tasks, load_task  # noqa: PLC0415

    specs = [load_task(name) for name in list_tasks()]
    if as_json:
        fields = ("id", "title", "about", "cite", "licence", "metric", "default_variant")
        print_json({"tasks": [{name: getattr(spec, name) for name in fields} | {"variants": list(spec.variants)} for spec in specs]})
        return
    print_table(
        ["task", "title", "variants"],
        [[spec.id, spec.title, ", ".join(_shown(list(spec.variants), spec.default_variant))] for spec in specs],
    )


@app.command("show")
def show(
    task: str,
    pairs: int = typer.Option(3, "-n", "--pairs", min=1, help="How many pairs."),
    variant: str = _VARIANT,
    seed: int = _SEED,
    as_json: bool = _JSON,
) -> None:
    """Show example prompts of a task with their marks."""
    from circuitlab.tasks import load_task, sample_pairs  # noqa: PLC0415
    from circuitlab.tasks.render import example_text  # noqa: PLC0415

    spec = load_task(task)
    examples = list(itertools.islice(sample_pairs(task, variant=variant, seed=seed), pairs))
    if as_json:
        print_json({"task": spec.id, "variant": variant or spec.default_variant, "examples": examples})
        return
    print_text(f"{spec.title} ({spec.id}, variant {variant or spec.default_variant}): {spec.about}\n")
    print_text("\n\n".join(example_text(example) for example in examples))


@app.command("check")
def check(
    task: str,
    model: str = options.MODEL,
    device: str = options.DEVICE,
    pairs: int = typer.Option(64, "-n", "--pairs", min=2, help="Prompt pairs to measure on; fewer if a table of your own pairs has fewer."),
    variant: str = _VARIANT,
    seed: int = _SEED,
    as_json: bool = _JSON,
) -> None:
    """Measure whether a model can do a task: accuracy, the gap between clean and corrupt prompts, and dropped pairs."""
    from circuitlab.tasks import sample_pairs  # noqa: PLC0415

    next(sample_pairs(task, variant=variant, seed=seed))  # a task that cannot be used raises before the model is loaded
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.workflows.fitness import check_task  # noqa: PLC0415

    report = check_task(load_model(model, device=device), task, pairs, variant=variant, seed=seed)
    if as_json:
        print_json(report)
        return
    print_text(report.reason)
    print_text(f"accuracy      {interval_text(report.accuracy)}   chance {report.chance:.2f}, gate {report.gate:.2f}, {report.n} pairs")
    print_text(f"gap           {interval_text(report.gap)} {report.units}, clean minus corrupt ({report.variant})")
    print_text(f"aligned       {report.aligned:.2f} of the rows drawn")
    print_text(f"single-token  {report.single_token:.2f} of the aligned rows")
    if report.dropped:
        print_text("dropped       " + ", ".join(f"{count} {reason}" for reason, count in report.dropped.items()))


def _shown(variants: list[str], default: str) -> list[str]:
    return [f"{name} (default)" if name == default and len(variants) > 1 else name for name in variants]
