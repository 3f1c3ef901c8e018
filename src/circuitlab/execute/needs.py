"""What a method asks of a model, and the refusal before any work where the model does not have it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

from circuitlab.core.errors import ModelError, UnknownNameError
from circuitlab.execute.contract import looked_at
from circuitlab.model.inside import require_fit

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["NEEDS", "Asks", "prepared", "refusal", "require"]

_Call = TypeVar("_Call", bound=Callable[..., Any])


class Asks(Protocol):
    """A method or a role: what has a name, and asks something of a model."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]


def _decoder(model: Model) -> str:
    try:
        model.decoder  # noqa: B018 - built and checked on first use
    except ModelError as error:
        return error.what
    return ""


def _readout(model: Model) -> str:
    try:
        model.weights.final_norm  # noqa: B018
    except ModelError as error:
        return error.what
    return ""


def _gradients(model: Model) -> str:
    return _decoder(model) or _readout(model)


def _writes(model: Model) -> str:
    names = [site for site in model.lacks if site.value in {"z", "attn_out", "mlp_out"}]
    return f"{model.spec.name} has no site {names[0].value!r}: {model.lacks[names[0]]}." if names else _readout(model)


def _neurons(model: Model) -> str:
    found = _decoder(model)
    if not found and any(block.experts is not None for block in model.decoder.blocks):
        found = f"MLPs of {model.spec.name} are run as they are (mixtures of experts, or an activation of their own), without neurons."
    return found


def _heads_apart(model: Model) -> str:
    found = _decoder(model)
    if not found and not all(block.heads_apart for block in model.decoder.blocks):
        found = f"{model.spec.name} norms the queries and keys of all heads together, so that one head's change is not its own."
    return found


def _no_sinks(model: Model) -> str:
    found = _decoder(model)
    if not found and any(block.sinks is not None for block in model.decoder.blocks):
        found = f"Attention of {model.spec.name} has sinks: a share of its softmax goes to no key."
    return found


def _plain_softmax(model: Model) -> str:
    found = _no_sinks(model)
    if not found and any(where.bias is not None for where in model.decoder.geometry(1)):
        found = f"Attention of {model.spec.name} adds a bias of positions to its scores."
    return found


def _tokenizer(model: Model) -> str:
    return "" if model.tokenizer is not None else f"{model.spec.name} has no tokenizer, so that text cannot be given to it."


def _unedited(model: Model) -> str:
    return f"{model.spec.name} is edited, and there are no rules for edits." if model.spec.edits else ""


NEEDS: dict[str, Callable[[Model], str]] = {
    "hooks": lambda _model: "",
    "writes": _writes,
    "decoder": _decoder,
    "gradients": _gradients,
    "neurons": _neurons,
    "heads_apart": _heads_apart,
    "no_sinks": _no_sinks,
    "plain_softmax": _plain_softmax,
    "tokenizer": _tokenizer,
    "unedited": _unedited,
}
"""What `Method.needs` may name: ``hooks``, runs of the model itself; ``writes``, what heads and MLPs add to the stream, and the way from
there to the logits; ``decoder``, the functional forward; ``gradients``, that and the logits from it; ``neurons``, MLPs made of linear maps;
``heads_apart``, heads whose queries and keys do not share a norm; ``no_sinks``, attention whose softmax is over keys alone;
``plain_softmax``, that and no position bias; ``tokenizer``, one that reads text; ``unedited``, a model without interventions."""


def refusal(method: Asks, model: Model) -> str:
    """Why a method or role cannot run on a model with its own parameters; empty where it can."""
    for need in (*method.needs, *getattr(method, "more_needs", ())):
        if need not in NEEDS:
            raise UnknownNameError("need of a method", need, NEEDS)
        if reason := NEEDS[need](model):
            return reason
    sites = getattr(method, "sites", ())
    lacking = [site for site in sites if site in model.lacks]
    return f"{model.spec.name} has no site {lacking[0].value!r}: {model.lacks[lacking[0]]}." if lacking else ""


def require(method: Asks, model: Model) -> None:
    """Raise `ModelError` where a method or role cannot run on a model."""
    if reason := refusal(method, model):
        what = f"{method.name} cannot run on this model: {reason}"
        less = f" {method.name} asks for less with its default parameters." if getattr(method, "more_needs", ()) else ""
        raise ModelError(what, f"`circuitlab doctor MODEL` lists the methods that can.{less}")


def prepared(run: _Call) -> _Call:
    """A method's call that first refuses what it cannot do, and then runs in torch's own modes, whatever the caller has set.

    Answers outside the vocabulary, prompts longer than the model's positions and padded prompts are refused here, too. Inside, gradients
    are enabled, inference mode and autocast are off; tensors of the batch that were made in inference mode are copied, since autograd may
    not keep them.
    """

    @functools.wraps(run)
    def call(method: Any, model: Model, batch: ContrastBatch, metric: Any) -> Any:
        import torch  # noqa: PLC0415 - listing methods must not load torch

        from circuitlab.model.hooks import full_precision  # noqa: PLC0415

        if looked_at.get():  # a method's call that goes on in another of its calls
            return run(method, model, batch, metric)
        require_fit(model, batch)
        with torch.inference_mode(mode=False), torch.enable_grad(), full_precision():
            model.refresh()
            token = looked_at.set(True)
            try:
                require(method, model)
                return run(method, model, _own(batch), metric)
            finally:
                looked_at.reset(token)

    return cast("_Call", call)


def _own(batch: ContrastBatch) -> ContrastBatch:
    """The same batch without tensors of inference mode."""
    import torch  # noqa: PLC0415

    def plain(value: Any) -> Any:
        return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value

    values = {field.name: plain(getattr(batch, field.name)) for field in dataclasses.fields(batch)}
    marks = {name: plain(places) for name, places in batch.marks.items()}
    return dataclasses.replace(batch, **{**values, "marks": marks})
