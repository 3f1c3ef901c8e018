"""``circuitlab experiment``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from circuitlab.cli import options
from circuitlab.cli.output import print_json, print_table, print_text

if TYPE_CHECKING:
    from circuitlab.experiments.run import ExperimentRecord

__all__ = ["app"]

app = typer.Typer(help="Published experiments, run on any model.", no_args_is_help=True)

_NAME = typer.Argument(help="Experiment, see `circuitlab experiment list`; all runs every one of them.")
_SETTING = typer.Option([], "--param", help="Setting of the experiment, name=value (JSON or text); repeatable.")
_GATES_OUT = typer.Option(None, "-o", "--out", help="Also write the verdicts to this JSON file.")
_OUT = typer.Option(None, "-o", "--out", help="Also write the record to this JSON file (a folder, if all are run).")


@app.command("list")
def list_experiments(as_json: bool = options.JSON) -> None:
    """List every experiment with its paper, its cost, and whether its question can be asked of models that were tried."""
    from circuitlab.experiments.catalogue import catalogue  # noqa: PLC0415

    entries = catalogue()
    if as_json:
        print_json({"experiments": entries})
        return
    rows = [[one["name"], one["title"], one["cite"][0], one["cost"], _gates(one["gates"])] for one in entries]
    print_table(["experiment", "title", "paper", "cost", "can be asked of"], rows)


@app.command("gate")
def gate(
    name: str = _NAME,
    model: str = options.MODEL,
    device: str = options.DEVICE,
    seed: int = options.SEED,
    setting: list[str] = _SETTING,
    out: Path = _GATES_OUT,
    store: Path = options.STORE,
    as_json: bool = options.JSON,
) -> None:
    """Say whether an experiment can ask its question of a model; exit code 0 if it can, 2 if not."""
    from circuitlab.core.files import require_writable  # noqa: PLC0415
    from circuitlab.experiments.catalogue import gate_table, save_gates  # noqa: PLC0415
    from circuitlab.experiments.run import check_gate  # noqa: PLC0415
    from circuitlab.model import load_model  # noqa: PLC0415 - torch
    from circuitlab.store import Cache  # noqa: PLC0415

    chosen, cache = _chosen(name, setting), Cache(store)
    require_writable(cache.root)
    loaded = load_model(model, device=device)
    table = gate_table(loaded.spec.name, {one: check_gate(loaded, one, seed=seed, store=cache) for one in chosen})
    if out is not None:
        save_gates(table, out)
    if as_json:
        print_json(table)
    else:
        for experiment, verdict in table["gates"].items():
            print_text(f"{experiment}: {'met' if verdict['met'] else 'NOT MET'}. {verdict['reason']}")
    if not all(verdict["met"] for verdict in table["gates"].values()):
        raise typer.Exit(2)


@app.command("run")
def run(
    name: str = _NAME,
    model: str = options.MODEL,
    device: str = options.DEVICE,
    seed: int = options.SEED,
    setting: list[str] = _SETTING,
    out: Path = _OUT,
    store: Path = options.STORE,
    as_json: bool = options.JSON,
) -> None:
    """Run an experiment on a model. Finished steps are kept, so that an interrupted one goes on where it stopped."""
    from circuitlab.core.files import require_writable  # noqa: PLC0415
    from circuitlab.experiments.run import run_experiment  # noqa: PLC0415
    from circuitlab.model import load_model  # noqa: PLC0415 - torch
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.workflows.terminal import CellProgress  # noqa: PLC0415

    chosen, cache = _chosen(name, setting), Cache(store)  # what cannot be used is found before the model is loaded
    require_writable(cache.root)
    loaded = load_model(model, device=device)
    records = []
    for experiment in chosen:
        with CellProgress(experiment.name):
            record = run_experiment(loaded, experiment, seed=seed, store=cache)
        records.append(record)
        if out is not None:
            record.save(out / f"{record.experiment}.{loaded.spec.name}.json" if name == "all" else out)
        if not as_json:
            _print_record(record)
    if as_json:
        print_json(records[0].to_dict() if name != "all" else {"records": [record.to_dict() for record in records]})


def _chosen(name: str, settings: list[str]) -> list[Any]:
    from circuitlab.cli.scoring import method_params  # noqa: PLC0415
    from circuitlab.experiments import experiment_classes, get_experiment  # noqa: PLC0415

    given = method_params(settings)
    names = list(experiment_classes()) if name == "all" else [name]
    return [get_experiment(one, given) for one in names]


def _gates(gates: dict[str, Any]) -> str:
    return ", ".join(f"{model}: {'yes' if one['met'] else 'no'}" for model, one in gates.items()) or "not tried"


def _print_record(record: ExperimentRecord) -> None:
    print_text(f"{record.experiment} on {record.model['name']}: gate {'met' if record.gate.met else 'NOT MET'}. {record.gate.reason}\n")
    print_table(["verdict", "published", "here"], [[one.verdict, f"{one.claim} {one.published}", one.here or "-"] for one in record.claims])
    print_text("")
