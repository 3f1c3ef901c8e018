"""The options that commands which score a task share, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from circuitlab.circuits import TopEdges, TopK
    from circuitlab.methods import Method
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["Request", "load_checked", "method_params", "warn_if_unfit"]


@dataclass(frozen=True)
class Request:
    """Options that `score`, `circuit` and `compare` share."""

    model: str
    method: str
    pairs: int
    variant: str | None
    seed: int
    metric: str | None
    params: list[str]
    store: Path | None
    stream: bool = False
    device: str | None = None

    def build_method(self) -> Method:
        """The method with its parameters."""
        from circuitlab.methods import get_method  # noqa: PLC0415

        return get_method(self.method, method_params(self.params))

    def score_arguments(self) -> dict[str, Any]:
        """Arguments of `circuitlab.score` other than model, task and method."""
        from circuitlab.store import Cache  # noqa: PLC0415

        shared = {"n": self.pairs, "variant": self.variant, "seed": self.seed, "metric": self.metric}
        return shared | {"store": Cache(self.store)}


def load_checked(tasks: list[str], request: Request, rule: TopK | TopEdges | None = None) -> Model:
    """Load the model, after everything that can be refused without it: names, one pair of every task, the store, and the rule."""
    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415
    from circuitlab.core.files import require_writable  # noqa: PLC0415
    from circuitlab.execute.contract import require_prompts, weights_only  # noqa: PLC0415
    from circuitlab.metrics import get_metric  # noqa: PLC0415
    from circuitlab.store import Cache  # noqa: PLC0415
    from circuitlab.tasks import sample_pairs  # noqa: PLC0415

    for task in tasks:
        next(sample_pairs(task, variant=request.variant, seed=request.seed))
    method = request.build_method()
    if request.metric:
        require_prompts(method, f"answer that {get_metric(request.metric).name} could read")
    if not tasks and not weights_only(method):
        what = f"{method.name!r} runs prompts, and no task is named."
        raise BadParameterError(what, "Name one, such as ioi; `circuitlab tasks list` lists them.")
    require_writable(Cache(request.store).root)
    from circuitlab.circuits import TopEdges, TopK  # noqa: PLC0415
    from circuitlab.model import load_model  # noqa: PLC0415
    from circuitlab.workflows.circuit import require_heads  # noqa: PLC0415 - torch
    from circuitlab.workflows.score import edge_method  # noqa: PLC0415

    if isinstance(rule, TopEdges):
        edge_method(method)
    model = load_model(request.model, stream=request.stream, device=request.device)
    if isinstance(rule, TopK):
        require_heads(model, rule.k)
    return model


def method_params(texts: list[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; a value is JSON if it parses as JSON, else text."""
    import msgspec  # noqa: PLC0415

    from circuitlab.core.errors import BadParameterError  # noqa: PLC0415

    params: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign:
            what = f"--param {text!r} has no value."
            raise BadParameterError(what, "Write name=value, for example --param direction=noising.")
        try:
            params[name] = msgspec.json.decode(value)
        except msgspec.DecodeError:
            params[name] = value
    return params


def warn_if_unfit(scores: HeadScores) -> None:
    """Warn on standard error if it is not shown that the model can do the task."""
    flag = scores.provenance.fitness
    if flag is not None and not flag.ready:
        typer.echo(f"\nWarning: {flag.reason}", err=True)
