"""What a method needs of a model; a model that lacks it is refused before any work."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, cast

from circuitlab.core.errors import BadParameterError, ModelError, StreamedModelError, UnknownNameError
from circuitlab.execute.contract import weights_checked, weights_only
from circuitlab.model.inside import require_fit

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Block, Decoder
    from circuitlab.model.protocol import Model

__all__ = [
    "NEEDS",
    "Asks",
    "blocks_of",
    "decoder_of",
    "has_decoder",
    "is_streamed",
    "prepared",
    "refusal",
    "require",
    "require_in_memory",
    "streaming_fault",
]

_Call = TypeVar("_Call", bound=Callable[..., Any])


class Asks(Protocol):
    """A method or a role: what has a name, and asks something of a model."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]


def is_streamed(model: Model) -> bool:
    """Whether one layer of the model at a time is in memory (`circuitlab.model.streaming.StreamedModel`)."""
    return bool(getattr(model, "streamed", False))


def blocks_of(model: Model) -> Sequence[Block]:
    """The layers of a model, for their shapes and norms; those of a streamed model lack the weights of their linear maps."""
    return model.outline if is_streamed(model) else model.decoder.blocks  # type: ignore[attr-defined, no-any-return]


def decoder_of(model: Model) -> Decoder:
    """The functional forward; that of a streamed model is for work that goes through the layers in order."""
    return model.by_layer if is_streamed(model) else model.decoder  # type: ignore[attr-defined, no-any-return]


def streaming_fault(method: Asks) -> str:
    """Why a method with its parameters cannot run on any streamed model; empty if it can."""
    return str(getattr(method, "streamed_fault", "it has not been written to go through the layers in order"))


def _streamed(method: Asks, model: Model) -> str:
    """Why a method cannot run on a streamed model; empty if it can, or the model is in memory."""
    fault = streaming_fault(method) if is_streamed(model) else ""
    return f"{model.spec.name} is streamed, one layer at a time is in memory, and {fault}." if fault else ""


def _decoder(model: Model) -> str:
    if is_streamed(model):
        return ""  # every layer was taken apart at loading
    try:
        model.decoder  # noqa: B018 - built and checked on first use
    except ModelError as error:
        return error.what
    return ""


def require_in_memory(model: Model, what: str) -> None:
    """Raise `StreamedModelError` for a streamed model, before anything is run; ``what`` is the subject of the message, in the plural."""
    if is_streamed(model):
        text = f"{what} need runs of {model.spec.name} with edits, and it is streamed: one layer at a time is in memory."
        raise StreamedModelError(text, "Load it without stream=True.")


def has_decoder(model: Model) -> bool:
    """Whether a model has a functional forward."""
    return not _decoder(model)


def _readout(model: Model) -> str:
    try:
        model.weights.final_norm  # noqa: B018
    except ModelError as error:
        return error.what
    return ""


def _token_vectors(model: Model) -> str:
    from circuitlab.model.token_vectors import token_vectors_fault  # noqa: PLC0415 - listing methods must not load torch

    return _gradients(model) or token_vectors_fault(model)


def _gradients(model: Model) -> str:
    return _decoder(model) or _readout(model)


def _writes(model: Model) -> str:
    names = [site for site in model.lacks if site.value in {"z", "attn_out", "mlp_out"}]
    return f"{model.spec.name} has no site {names[0].value!r}: {model.lacks[names[0]]}." if names else _readout(model)


def _neurons(model: Model) -> str:
    reason = _decoder(model)
    if not reason and any(block.experts is not None for block in blocks_of(model)):
        reason = f"MLPs of {model.spec.name} are run as whole modules (mixtures of experts, or a custom activation), without neurons."
    return reason


def _heads_apart(model: Model) -> str:
    reason = _decoder(model)
    if not reason and not all(block.heads_apart for block in blocks_of(model)):
        reason = (
            f"{model.spec.name} normalises the queries and keys of all heads together, so that a change in one head reaches the others."
        )
    return reason


def _no_sinks(model: Model) -> str:
    reason = _decoder(model)
    if not reason and any(block.sinks is not None for block in blocks_of(model)):
        reason = f"Attention of {model.spec.name} has sinks: part of its softmax goes to no key."
    return reason


def _plain_softmax(model: Model) -> str:
    reason = _no_sinks(model)
    if not reason and any(where.bias is not None for where in model.decoder.geometry(1)):
        reason = f"Attention of {model.spec.name} adds a position bias to its scores."
    return reason


def _tokenizer(model: Model) -> str:
    return "" if model.tokenizer is not None else f"{model.spec.name} has no tokenizer, so that text cannot be given to it."


def _unedited(model: Model) -> str:
    return f"{model.spec.name} is edited, and the method has no rules for edits." if model.spec.edits else ""


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
    "token_vectors": _token_vectors,
    "unedited": _unedited,
}
"""The names that `Method.needs` may contain: ``hooks``, runs of the model itself; ``writes``, what heads and MLPs add to the stream, and
the readout of the logits; ``decoder``, the functional forward; ``gradients``, that and the readout; ``neurons``, MLPs made of linear maps;
``heads_apart``, heads whose queries and keys do not share a norm; ``no_sinks``, attention whose softmax is over keys only;
``plain_softmax``, that and no position bias; ``tokenizer``, one that reads text; ``token_vectors``, the functional
forward, the readout, and what each token alone adds to the stream; ``unedited``, a model without interventions."""


def refusal(method: Asks, model: Model) -> str:
    """Why a method or role with its parameters cannot run on a model; empty if it can."""
    if reason := _streamed(method, model):
        return reason
    for need in (*method.needs, *getattr(method, "more_needs", ())):
        if need not in NEEDS:
            raise UnknownNameError("need of a method", need, NEEDS)
        if reason := NEEDS[need](model):
            return reason
    sites = getattr(method, "sites", ())
    lacking = [site for site in sites if site in model.lacks]
    return f"{model.spec.name} has no site {lacking[0].value!r}: {model.lacks[lacking[0]]}." if lacking else ""


def require(method: Asks, model: Model) -> None:
    """Raise `ModelError` if a method or role cannot run on a model."""
    if reason := refusal(method, model):
        what = f"{method.name} cannot run on this model: {reason}"
        less = f" {method.name} needs less with its default parameters." if getattr(method, "more_needs", ()) else ""
        raise ModelError(what, f"`circuitlab doctor MODEL` lists the methods that can.{less}")


def prepared(run: _Call) -> _Call:
    """Decorate a method's call: refuse what it cannot do, then run it in fixed torch modes, whatever the caller has set.

    Answers outside the vocabulary, prompts longer than the model's context and padded prompts are refused, too. Inside, gradients are
    enabled, and inference mode and autocast are off. Tensors of the batch that were made in inference mode are copied, because autograd
    cannot save them. A method that reads weights alone may be called without batch and metric, and never receives them, so that its scores
    cannot depend on them.
    """

    @functools.wraps(run)
    def call(method: Any, model: Model, batch: ContrastBatch | None = None, metric: Any = None) -> Any:
        import torch  # noqa: PLC0415 - listing methods must not load torch

        from circuitlab.model.hooks import full_precision  # noqa: PLC0415

        if weights_checked.get():  # a call from within another method's call
            return run(method, model, batch, metric)
        if weights_only(method):
            batch = metric = None
        elif batch is None or metric is None:
            what = f"{method.name} runs prompts and reads a metric, and none is given."
            raise BadParameterError(what, "Call it with a model, a batch and a metric, or use circuitlab.score.")
        else:
            require_fit(model, batch)
        with torch.inference_mode(mode=False), torch.enable_grad(), full_precision():
            model.refresh()
            token = weights_checked.set(True)
            try:
                require(method, model)
                return run(method, model, None if batch is None else _without_inference_tensors(batch), metric)
            finally:
                weights_checked.reset(token)

    return cast("_Call", call)


def _without_inference_tensors(batch: ContrastBatch) -> ContrastBatch:
    """The same batch without tensors of inference mode."""
    import torch  # noqa: PLC0415

    def plain(value: Any) -> Any:
        return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value

    values = {field.name: plain(getattr(batch, field.name)) for field in dataclasses.fields(batch)}
    marks = {name: plain(places) for name, places in batch.marks.items()}
    return dataclasses.replace(batch, **{**values, "marks": marks})
