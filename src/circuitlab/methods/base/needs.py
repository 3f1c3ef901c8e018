"""What a method asks of a model, checked before any work starts, and the modes that a run happens in."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from circuitlab.errors import ModelError
from circuitlab.model.protocol import Site

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["guarded", "refusal", "require", "within_run"]

_PARTS = {
    "heads": Site.Z,
    "attns": Site.ATTN_OUT,
    "mlps": Site.MLP_OUT,
    "embed": Site.RESID_PRE,
    "resid_pre": Site.RESID_PRE,
    "resid_mid": Site.RESID_MID,
    "resid_post": Site.RESID_POST,
}
_SUM = (Site.RESID_PRE, Site.Z, Site.ATTN_OUT, Site.MLP_OUT, Site.RESID_POST)

P = ParamSpec("P")
R = TypeVar("R")
M = TypeVar("M")

_running: contextvars.ContextVar[bool] = contextvars.ContextVar("running", default=False)


def within_run() -> bool:
    """Whether a guarded method is running, so that the model's weights have been looked at already."""
    return _running.get()


def refusal(method: Any, model: Model) -> str:
    """Why a method cannot run on a model; empty if it can.

    Parameters
    ----------
    method : Method
        With its parameters set: parts and sites are looked at.
    model : Model
    """
    for site in _sites(method):
        if site in model.lacks:
            return f"it has no site {site.value!r}: {model.lacks[site]}"
    for need in method.needs:
        if reason := _reason(_CHECKS[need], method, model):
            return reason
    return ""


def require(method: Any, model: Model) -> None:
    """Raise `ModelError` where a method cannot run on a model; the message says why."""
    if reason := refusal(method, model):
        what = f"{method.name!r} cannot run on {model.spec.name} ({model.spec.family}): {reason.rstrip('.')}."
        raise ModelError(what, "`circuitlab doctor` lists the methods that can.")


def guarded(run: Callable[Concatenate[M, Model, ContrastBatch, P], R]) -> Callable[Concatenate[M, Model, ContrastBatch, P], R]:
    """Decorate a method's run: what the model lacks is refused first, weights that changed are noticed, and modes are set for the run.

    Inside, the model evaluates, gradients are on and inference mode is off, whatever the caller has set; it is put back afterwards.
    """

    @functools.wraps(run)
    def inside(method: M, model: Model, batch: ContrastBatch, *args: P.args, **named: P.kwargs) -> R:
        if within_run():
            return run(method, model, batch, *args, **named)
        model.refresh()
        with model.ready():
            require(method, model)
            token = _running.set(True)
            try:
                return run(method, model, batch.outside_inference(), *args, **named)
            finally:
                _running.reset(token)

    return inside


def _sites(method: Any) -> Iterator[Site]:
    """Sites that the parameters of a method name."""
    if "readout" in method.needs:
        yield from _SUM
    for part in (*getattr(method, "parts", ()), *getattr(method, "senders", ())):
        yield Site(getattr(method, "site", "z")) if part == "heads" else _PARTS[part]


def _reason(check: Callable[[Any, Model], str], method: Any, model: Model) -> str:
    try:
        return check(method, model)
    except ModelError as error:
        return error.what


def _nothing(_method: Any, _model: Model) -> str:
    return ""


def _weights(_method: Any, model: Model) -> str:
    for layer in range(model.spec.n_layers):
        model.weights.output(layer)
        model.weights.post_attention_norm(layer)
    return ""


def _readout(_method: Any, model: Model) -> str:
    return _weights(_method, model) if model.weights.final_norm is not None else ""


def _decoder(_method: Any, model: Model) -> str:
    return "" if model.decoder.blocks and model.weights.final_norm is not None else "it has no layers"


def _neurons(_method: Any, model: Model) -> str:
    for block in model.decoder.blocks:
        block.require_neurons()
    return ""


def _heads_apart(_method: Any, model: Model) -> str:
    apart = all(block.heads_apart for block in model.decoder.blocks)
    return "" if apart else "its queries and keys are normed over all heads together, so no head's can be told apart from the others'"


def _plain_scores(method: Any, model: Model) -> str:
    """For methods that form attention weights from queries and keys by themselves."""
    if getattr(method, "site", "") in {"z", "v", "pattern"}:
        return ""
    if any(block.sinks is not None for block in model.decoder.blocks):
        return "its attention has sinks, for which this method has no rule"
    geometry = model.decoder.measure(2)
    return (
        "its attention scores have a position bias, for which this method has no rule" if any(x.bias is not None for x in geometry) else ""
    )


_CHECKS: dict[str, Callable[[Any, Model], str]] = {
    "hooks": _nothing,
    "weights": _weights,
    "readout": _readout,
    "decoder": _decoder,
    "gradients": _decoder,
    "neurons": _neurons,
    "heads_apart": _heads_apart,
    "plain_scores": _plain_scores,
}
"""What a method can need: ``weights`` are the heads' output projections, ``neurons`` MLPs that are not mixtures of experts."""
