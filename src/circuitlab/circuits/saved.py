"""Circuits as JSON files in circuitlab's own format, with the provenance of the runs that they were selected from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from circuitlab.circuits.circuit import Circuit
from circuitlab.circuits.reading import reading, require_universe
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.nodes import Universe
from circuitlab.core.provenance import SCHEMA, Provenance

__all__ = ["SavedCircuit", "load_circuit", "save_circuit"]

_FORMAT = "circuitlab circuit"


@dataclass(frozen=True)
class SavedCircuit:
    """The content of a circuit file.

    Parameters
    ----------
    circuit : Circuit
        The circuit.
    runs : tuple of Provenance
        Model, task, method, parameters, metric and fitness of the runs that it was selected from, as far as they were saved.

    Examples
    --------
    >>> saved = SavedCircuit(Circuit(["a9.h6"], Universe(12, 12, 12)))
    >>> len(saved.circuit), saved.runs
    (1, ())
    """

    circuit: Circuit
    runs: tuple[Provenance, ...] = ()


def save_circuit(circuit: Circuit, path: str | Path, runs: Sequence[Provenance] = ()) -> Path:
    """Write a circuit and its provenance to a file, and return the path.

    Parameters
    ----------
    circuit : Circuit
        Any circuit; unlike graph formats, this one has a name for every node and edge.
    path : str or Path
        Target; an existing file is replaced only once the new one is complete on disk.
    runs : sequence of Provenance
        Provenance of the scores that the circuit was selected from (``scores.provenance``); all or some of ``circuit.sources``.

    Raises
    ------
    BadParameterError
        If a run is not among the circuit's sources.
    IncompatibleError
        If a run's model has another shape than the circuit.
    StoreError
        If the file cannot be written.

    Examples
    --------
    >>> path = save_circuit(Circuit(["a9.h6", "a9.h9"], Universe(12, 12, 12)), "movers.json")
    >>> load_circuit(path).circuit
    Circuit of 2 nodes, given: a9.h6, a9.h9
    """
    from circuitlab.core.files import replace_file  # noqa: PLC0415 - scores are slow to import

    saved = SavedCircuit(circuit, tuple(runs))
    _check(saved)
    data = {
        "format": _FORMAT,
        "schema": SCHEMA,
        "circuit": circuit.to_dict(),
        "runs": [{"run_id": run.run_id(), **msgspec.to_builtins(run)} for run in saved.runs],
    }
    target = Path(path)
    replace_file(target, lambda temporary: temporary.write_text(json.dumps(data, indent=1), encoding="utf-8"))
    return target


def load_circuit(path: str | Path, universe: Universe | None = None) -> SavedCircuit:
    """Read a file written by `save_circuit`.

    Parameters
    ----------
    path : str or Path
        The file.
    universe : Universe, optional
        The shape of the model that the circuit must belong to.

    Raises
    ------
    BadParameterError
        If the file is not a circuit file, comes from a newer circuitlab, names unknown nodes, or was changed so that its parts disagree.
    IncompatibleError
        If the circuit belongs to a model of another shape than ``universe``.

    Examples
    --------
    >>> circuit = Circuit(["a9.h6"], Universe(12, 12, 12))
    >>> load_circuit(save_circuit(circuit, "mover.json"), Universe(12, 12, 12)).circuit == circuit
    True
    """
    with reading(path, "a circuit file", "Give a file that save_circuit wrote."):
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if data.get("format") != _FORMAT:
            raise BadParameterError(f"its format is {data.get('format')!r}.", "For graphs of other tools use read_graph_json.")
        if data["schema"] > SCHEMA:
            raise BadParameterError(f"it has schema {data['schema']}, and this circuitlab reads {SCHEMA}.", "Update circuitlab.")
        runs = tuple(msgspec.convert(entry, Provenance) for entry in data["runs"])
        if changed := [entry["run_id"] for entry, run in zip(data["runs"], runs, strict=True) if entry["run_id"] != run.run_id()]:
            raise BadParameterError(f"the data of run {changed[0]} do not match its id.", "Save the circuit again.")
        saved = SavedCircuit(Circuit.from_dict(data["circuit"]), runs)
        _check(saved)
    require_universe(saved.circuit, universe, path)
    return saved


def _check(saved: SavedCircuit) -> None:
    circuit = saved.circuit
    for run in saved.runs:
        space = Universe(run.model.n_layers, run.model.n_heads, run.model.n_kv_heads)
        if space != circuit.universe:
            what = f"Run {run.run_id()} is of {space}, and the circuit of {circuit.universe}."
            raise IncompatibleError(what, "Give the provenance of the scores that the circuit was selected from.")
        if run.run_id() not in circuit.sources:
            what = f"Run {run.run_id()} is not among the circuit's sources ({', '.join(circuit.sources) or 'it names none'})."
            raise BadParameterError(what, "Give the provenance of the scores that the circuit was selected from.")
