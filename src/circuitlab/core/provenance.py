"""Where a number comes from: which model, weights, prompts, method and metric, and the identity of a run."""

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
"""Version of the stored result layout; a file with a higher one is refused by name, never half-read."""


def digest(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON: equal values give equal digests on every machine."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, as far as a score depends on it.

    Parameters
    ----------
    name : str
        The alias, path or hub name it was loaded by (for people; not part of the identity).
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
        Number of positions of a model with a table of positions; None where positions are computed.
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
    """Which prompts a batch holds.

    ``digest`` is the SHA-256 of the token ids, answers, foils and marks that were really run, so it changes with the
    tokenizer and with every dropped row, and nothing else needs to be trusted. ``dropped`` counts rows by reason.
    """

    id: str
    variant: str
    version: int
    n_pairs: int
    seed: int
    digest: str
    dropped: dict[str, int] = {}


WEIGHTS_ALONE = TaskRef(id="weights alone", variant="", version=0, n_pairs=0, seed=0, digest="")
"""In the place of the prompts of scores that no prompt was run for."""

NO_METRIC = "none"
"""In the place of their metric."""


class FitnessFlag(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the model can do the task at all; travels with the scores to every figure.

    ``accuracy`` and ``gap`` are ``{"mean", "low", "high"}``; ``ready`` is false when the model is near chance, and
    ``reason`` says so in one sentence.
    """

    accuracy: dict[str, float]
    gap: dict[str, float]
    chance: float
    gate: float
    ready: bool
    reason: str


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """When and with what a run was made; never part of its identity."""

    created: str
    seconds: float
    python: str
    platform: str
    packages: dict[str, str]


def capture_environment(seconds: float) -> Environment:
    """Record the moment, the interpreter, and the versions of the packages a score depends on."""
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
    """Everything a stored score can say about itself.

    ``params`` holds every effective parameter of the method, defaults included. ``estimand`` says in words what the number
    estimates; ``units`` those of the metric. ``cite`` lists BibTeX keys of the method and the task. ``measured`` holds what the run
    found out about its own accuracy, for example the error of reduced precision; it is no part of the identity. Scores from weights
    alone have `WEIGHTS_ALONE` for their prompts and `NO_METRIC` for their metric, and ``units`` are the method's own.
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
        """Whether the scores come from weights alone, so that no task, prompt or metric has a part in them."""
        return self.task == WEIGHTS_ALONE

    def run_id(self) -> str:
        """Sixteen hex digits of the SHA-256 of method, parameters, model, prompts, metric and schema.

        Not of the time, the machine, package versions, names, or the fitness flag.
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
