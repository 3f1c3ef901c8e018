"""Where a number comes from: model, weights, prompts, method and metric, and the identity of a run."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.metadata
import platform
from typing import Any

import msgspec

__all__ = [
    "NO_METRIC",
    "SCHEMA",
    "WEIGHTS_ALONE",
    "Environment",
    "FitnessFlag",
    "ModelSpec",
    "Provenance",
    "TaskRef",
    "capture_environment",
    "digest",
]

SCHEMA = 1
"""Version of the layout of stored results; a file with a higher version is refused with its version named, never partly read."""


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON: equal values give equal digests on every machine."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a model that a score depends on.

    Parameters
    ----------
    name : str
        The alias, path or hub name it was loaded by (for readers; not part of the identity).
    family : str
        The transformers ``model_type``, for example ``"llama"``.
    n_layers, n_heads, n_kv_heads, d_model, d_head, d_vocab : int
        Shapes.
    norm : str
        ``"rms"`` or ``"layer"``.
    post_norm : bool
        Whether attention and MLP outputs pass a norm before they are added (Gemma 2 and 3).
    parallel : bool
        Whether attention and MLP read the same residual stream (GPT-NeoX).
    dtype : str
        Compute dtype, for example ``"float32"``.
    weights : str
        SHA-256 over the parameters; part of the identity.
    processing : str
        Weight processing applied after loading (``"none"``: the weights as released); part of the identity.
    config : str
        Digest of everything else that a logit depends on: the configuration, buffers, adapters and their state; part of the identity.
    edits : str
        Digest of the interventions that the model was edited with, empty for none; part of the identity.
    n_ctx : int, optional
        Number of positions of a model whose tables of positions end somewhere; None if it takes prompts of any length.
    """

    name: str
    family: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    norm: str
    post_norm: bool
    parallel: bool
    dtype: str
    weights: str
    processing: str = "none"
    config: str = ""
    edits: str = ""
    n_ctx: int | None = None

    def identity(self) -> dict[str, str]:
        """The part of the spec that changes scores: weights, configuration, processing, compute dtype and edits."""
        return {"weights": self.weights, "config": self.config, "processing": self.processing, "dtype": self.dtype, "edits": self.edits}


class TaskRef(msgspec.Struct, frozen=True, kw_only=True):
    """The prompts that a batch contains.

    Parameters
    ----------
    id, variant, version
        The task, the corruption and the version of the task file.
    n_pairs : int
        Number of prompt pairs.
    seed : int
        Seed of the draw.
    digest : str
        SHA-256 of the token ids, answers, foils and marks that were run. It changes with the tokenizer and with every dropped row, so it
        alone identifies the prompts.
    dropped : dict
        Number of rows that were left out, by reason.
    """

    id: str
    variant: str
    version: int
    n_pairs: int
    seed: int
    digest: str
    dropped: dict[str, int] = {}


WEIGHTS_ALONE = TaskRef(id="weights alone", variant="", version=0, n_pairs=0, seed=0, digest="")
"""Stands for the prompts of scores from weights alone."""

NO_METRIC = "none"
"""Stands for the metric of scores from weights alone."""


class FitnessFlag(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model can do the task at all; kept with the scores and shown in every figure.

    Parameters
    ----------
    accuracy, gap : dict
        ``{"mean", "low", "high"}``: estimate and interval of the accuracy, and of the gap (the metric on the clean prompt minus that on the
        corrupt one, in the metric's units).
    chance : float
        Accuracy of guessing.
    gate : float
        Accuracy that the model must reach.
    ready : bool
        False if the model was not shown to do the task.
    reason : str
        The verdict in one sentence.
    """

    accuracy: dict[str, float]
    gap: dict[str, float]
    chance: float
    gate: float
    ready: bool
    reason: str

    def at_chance(self) -> bool:
        """Whether the accuracy cannot be told from chance or is below it, and its interval ends below the gate."""
        return self.accuracy["low"] <= self.chance and self.accuracy["high"] < self.gate


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """When a run was made, how many seconds it took, and with which software; never part of its identity."""

    created: str
    seconds: float
    python: str
    platform: str
    packages: dict[str, str]


def capture_environment(seconds: float) -> Environment:
    """Record the time, the interpreter, and the versions of the packages that a score depends on."""
    packages = {}
    for name in ("circuitlab", "torch", "transformers", "transformer-lens", "numpy"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return Environment(
        created=created,
        seconds=seconds,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=packages,
    )


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is recorded with a score.

    Parameters
    ----------
    method : str
        Name of the method.
    params : dict
        Every effective parameter of the method, defaults included.
    estimand : str
        What the number estimates, in words.
    additive : bool
        Whether the scores of all parts sum to the total.
    metric, metric_params, units
        The metric, its parameters, and the units of its values. For scores from weights alone: `NO_METRIC`, no parameters, and the units
        of the method.
    model : ModelSpec
        The model.
    task : TaskRef
        The prompts, or `WEIGHTS_ALONE`.
    fitness : FitnessFlag, optional
        Whether the model can do the task.
    cite : tuple of str
        BibTeX keys of the method and the task.
    schema : int
        Version of the layout.
    environment : Environment, optional
        Time, machine and software; not part of the identity.
    measured : dict
        What the run measured about its own accuracy, for example the error of reduced precision; not part of the identity.
    """

    method: str
    params: dict[str, Any]
    estimand: str
    additive: bool
    metric: str
    metric_params: dict[str, Any]
    units: str
    model: ModelSpec
    task: TaskRef
    fitness: FitnessFlag | None = None
    cite: tuple[str, ...] = ()
    schema: int = SCHEMA
    environment: Environment | None = None
    measured: dict[str, float] = {}

    @property
    def weights_only(self) -> bool:
        """Whether the scores come from weights alone, so that they depend on no task, prompt or metric."""
        return self.task == WEIGHTS_ALONE

    def run_id(self) -> str:
        """Sixteen hex digits of the SHA-256 of method, parameters, model, prompts, metric and schema.

        The time, the machine, package versions, names and the fitness flag do not change it.
        """
        return digest(
            {
                "method": self.method,
                "params": self.params,
                "model": self.model.identity(),
                "task": self.task.digest,
                "metric": self.metric,
                "metric_params": self.metric_params,
                "schema": self.schema,
            },
        )[:16]
