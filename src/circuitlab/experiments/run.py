"""Run an experiment on a model, step by step, and keep its record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from circuitlab.core.errors import BadParameterError, CircuitlabError, StoreError
from circuitlab.core.files import read_bytes, replace_file, require_writable
from circuitlab.core.html import html_table
from circuitlab.experiments.registry import get_experiment
from circuitlab.experiments.types import Claim, Experiment, ExperimentContext, Gate, Picture
from circuitlab.store import MISFITS, Cache, Document, Documents

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["RECORDS", "ExperimentRecord", "check_gate", "read_record", "run_experiment"]

RECORDS = Documents("experiments")
"""Finished experiments."""


class ExperimentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A finished experiment: everything that its page, its figures and its verdicts are made from.

    Parameters
    ----------
    experiment : str
        Its name.
    version : int
        Version of the experiment.
    settings : dict
        Its settings.
    model : dict
        Name and identity of the model.
    seed : int
        Seed.
    gate : Gate
        Whether the question could be asked.
    results : dict
        What was measured, as plain data; empty where the gate is not met.
    claims : tuple of Claim
        What was published, and what was found.
    seconds : float
        Duration of the steps that were not in the store.
    """

    experiment: str
    version: int
    settings: dict[str, Any]
    model: dict[str, Any]
    seed: int
    gate: Gate
    results: dict[str, Any]
    claims: tuple[Claim, ...]
    seconds: float = 0.0

    def __repr__(self) -> str:
        lines = [f"{self.experiment} on {self.model['name']}: gate {'met' if self.gate.met else 'NOT MET'}. {self.gate.reason}"]
        lines += [f"  {claim.verdict}: {claim.claim} Here: {claim.here or 'not measured'}." for claim in self.claims]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [[claim.claim, claim.published, claim.here, claim.verdict] for claim in self.claims]
        title = f"{self.experiment} on {self.model['name']}"
        return html_table(
            title,
            ["published", "there", "here", "verdict"],
            rows,
            notes=[self.gate.reason] if self.gate.met else [],
            warning="" if self.gate.met else self.gate.reason,
        )

    def as_experiment(self) -> Experiment:
        """The experiment with the settings of this record."""
        return get_experiment(self.experiment, self.settings)

    def drawings(self) -> list[Picture]:
        """The figures of this record; none where the gate is not met. Neither torch nor a model is loaded."""
        if not self.gate.met:
            return []
        settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.settings.items() if isinstance(value, int | float))
        return list(self.as_experiment().draw(self.results, f"{self.model['name']} · {settings} · seed {self.seed}"))

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def save(self, path: str | Path) -> None:
        """Write it as JSON; a file that exists is replaced at once and never left half written."""
        text = msgspec.json.format(msgspec.json.encode(self), indent=1)
        replace_file(Path(path), lambda target: target.write_bytes(text + b"\n"))


def read_record(path: str | Path) -> ExperimentRecord:
    """Read a record that `ExperimentRecord.save` wrote.

    Raises
    ------
    BadParameterError
        If there is no such file, or it is no record.
    StoreError
        If this user may not read it.
    """
    data = read_bytes(Path(path))
    if data is None:
        raise BadParameterError(f"There is no record {path}.", "Check the path, or run the experiment with -o.")
    try:
        record = msgspec.json.decode(data, type=ExperimentRecord)
        if not isinstance(record.model.get("name"), str):
            raise msgspec.ValidationError("Its model has no name")
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadParameterError(
            f"{path} is not the record of an experiment: {error}.", "Run the experiment with -o to write one."
        ) from error
    return record


def check_gate(
    model: Model, experiment: str | Experiment, *, seed: int = 0, store: Cache | None = None, settings: dict[str, Any] | None = None
) -> Gate:
    """Whether an experiment can ask its question of a model; see `run_experiment` for the arguments."""
    context = _context(model, experiment, seed, store, settings)
    return _gate(context)


def run_experiment(
    model: Model, experiment: str | Experiment, *, seed: int = 0, store: Cache | None = None, settings: dict[str, Any] | None = None
) -> ExperimentRecord:
    """Run one experiment on a model; what was finished before is read from the store.

    Parameters
    ----------
    model : Model
        Any model with a tokenizer; whether the question can be asked of it is measured first.
    experiment : str or Experiment
        Name of an experiment (`circuitlab experiment list`), or one with settings of your own.
    seed : int
        Seed of prompts, random heads and training.
    store : Cache, optional
        Where steps are kept; ``$CIRCUITLAB_STORE`` or ``./runs`` by default.
    settings : dict, optional
        Settings other than the experiment's own, if it is given by name.

    Returns
    -------
    ExperimentRecord
        With a verdict for everything that was published.

    Raises
    ------
    UnknownNameError
        If there is no such experiment or setting.
    StoreError
        If the store cannot be written, which is found before anything is run; or if the experiment fails on steps that were read from it.
    """
    context = _context(model, experiment, seed, store, settings)
    require_writable(context.store.root)
    about = {
        "experiment": context.experiment.name,
        "version": context.experiment.version,
        "settings": msgspec.to_builtins(context.experiment),
        "model": {"name": model.spec.name, **model.spec.identity()},
        "seed": seed,
    }

    def read(document: Document) -> ExperimentRecord:
        return msgspec.convert(document.result | about | {"seconds": document.environment.seconds}, ExperimentRecord)

    def check(document: Document) -> None:
        record = read(document)
        if record.gate.met:
            context.experiment.draw(record.results, "")

    codec = RECORDS.checked(check)
    document, _ = context.store.get_or_compute(context.identity(), codec, lambda: _gone_on(context))
    return read(document)


def _context(
    model: Model, experiment: str | Experiment, seed: int, store: Cache | None, settings: dict[str, Any] | None
) -> ExperimentContext:
    if settings and not isinstance(experiment, str):
        what = f"{experiment.name} was given with its settings, and settings {sorted(settings)} beside it."
        raise BadParameterError(what, "Give the experiment by name, or put the settings into it.")
    chosen = get_experiment(experiment, settings) if isinstance(experiment, str) else experiment
    model.refresh()  # weights that were changed in place are another model
    return ExperimentContext(chosen, model, seed, store or Cache())


def _gate(context: ExperimentContext) -> Gate:
    def read(plain: dict[str, Any]) -> Gate:
        return msgspec.convert(plain, Gate)

    return read(context.stored("gate", lambda: msgspec.to_builtins(context.experiment.gate(context)), read=read))


def _gone_on(context: ExperimentContext) -> dict[str, Any]:
    """`_measured`; an error that steps from the store may have caused names their files, which stay where they are."""
    try:
        return _measured(context)
    except MISFITS as error:
        if isinstance(error, CircuitlabError) or not context.reused:
            raise
        files = ", ".join(map(str, context.reused))
        what = f"Experiment {context.experiment.name!r} failed on data of finished steps ({files}): {type(error).__name__}: {error}."
        fix = "If another program or version wrote them, move them away; they are then made again. Otherwise the experiment has a fault."
        raise StoreError(what, fix) from error


def _measured(context: ExperimentContext) -> dict[str, Any]:
    experiment, gate = context.experiment, _gate(context)
    results = experiment.measure(context) if gate.met else {}
    # Verdicts are read from the data as they are stored, where NaN is null, so that a stored experiment is judged alike.
    plain = msgspec.json.decode(msgspec.json.encode(results))
    claims = experiment.judge(plain) if gate.met else experiment.published
    if len(claims) != len(experiment.published):
        what = f"Experiment {experiment.name!r} judged {len(claims)} of its {len(experiment.published)} claims."
        raise BadParameterError(what, "Return one for each claim in 'published'.")
    return {"gate": msgspec.to_builtins(gate), "results": plain, "claims": msgspec.to_builtins(claims)}
