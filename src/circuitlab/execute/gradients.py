"""Runs for gradient methods: every intermediate value in one autograd graph, with the metric at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from circuitlab.core.errors import BadParameterError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.decoder import Decoder, Trace
    from circuitlab.model.protocol import Model

__all__ = ["GradientRun", "gradient_run", "refuse_zero_gradient"]


@dataclass(frozen=True, eq=False)
class GradientRun:
    """One run of some prompts, ready to be differentiated.

    Parameters
    ----------
    embed : Tensor
        The leaf of the graph: the residual stream entering layer 0, (pair, pos, d_model), or the node output that was set.
    trace : Trace
        Every intermediate value, in the graph.
    value : Tensor, shape (pair,)
        The metric, in the graph.
    flat : str
        Name of a metric that is at its maximum in this run, so that its gradient is rounding noise; empty for all others.
    """

    embed: Float[Tensor, "pair pos ..."]
    trace: Trace
    value: Float[Tensor, " pair"]
    flat: str = ""

    def gradients(self, at: Sequence[Tensor], *, keep: bool = False, allow_zero: bool = False) -> list[Tensor]:
        """Gradient of each pair's metric with respect to values of the trace, each of the value's shape.

        Pairs do not interact, so the gradient of the sum contains every pair's own gradient. ``keep`` keeps the graph for another call.
        ``allow_zero`` returns zero gradients instead of raising, for a method that checks all of its groups of pairs together.

        Raises
        ------
        BadParameterError
            If the metric compares with this run itself (``flat``), or every gradient is exactly zero.
        """
        import torch  # noqa: PLC0415

        if self.flat:
            what = f"{self.flat!r} has zero gradient at the clean run: it compares with that run, so it has its maximum there."
            raise BadParameterError(what, "Differentiate at the corrupt run (direction='denoising'), or use logit_diff, or eap_ig.")
        raw = torch.autograd.grad(self.value.sum(), list(at), retain_graph=keep, allow_unused=True)
        gradients = [torch.zeros_like(value) if gradient is None else gradient for gradient, value in zip(raw, at, strict=True)]
        if not allow_zero and not any(bool(gradient.any()) for gradient in gradients):
            refuse_zero_gradient()
        return gradients


def refuse_zero_gradient() -> NoReturn:
    """Raise `BadParameterError`: the metric has no gradient to attribute."""
    what = "The metric has zero gradient at the run that is differentiated (as KL divergence has at the clean run)."
    raise BadParameterError(what, "Use logit_diff, eap_ig (which integrates along a path), or exact activation_patching.")


def gradient_run(
    model: Model,
    metric: Metric,
    batch: ContrastBatch,
    start: Int[Tensor, "pair pos"] | Float[Tensor, "pair pos d_model"],
    decoder: Decoder | None = None,
    *,
    track: bool = True,
) -> GradientRun:
    """Run prompts, given as token ids or as the residual stream entering layer 0, with gradients.

    Parameters
    ----------
    model : Model
        The model.
    metric : Metric
        Its value at the answer position is the end of the graph.
    batch : ContrastBatch
        Answers, foils and answer positions; ``start`` replaces its prompts.
    start : Tensor
        Token ids (pair, pos), or embeddings (pair, pos, d_model), for which the edits of an edited model see the clean prompts.
    decoder : Decoder, optional
        Another functional forward of the same model (for example with another backward pass). If it has an ``unembed``, that computes
        the logits.
    track : bool
        Whether to build a graph; without one the values are the same, but nothing can be differentiated.
    """
    import torch  # noqa: PLC0415

    from circuitlab.model.places import Places  # noqa: PLC0415 - torch

    forward = decoder or model.decoder
    embed = start if start.is_floating_point() else forward.embed(start)
    unembed = getattr(forward, "unembed", model.unembed)
    ids, token_batch = (None, batch) if metric.whole_vocabulary else batch.over_tokens()
    with torch.set_grad_enabled(track):
        leaf = embed.detach().clone().requires_grad_(track)
        trace = forward.trace(leaf, tap=forward.tap(Places.of(batch, None if start.is_floating_point() else start)))
        last = trace.final[torch.arange(len(leaf)), batch.end.to(leaf.device)]
        value = metric(unembed(last, ids), token_batch)
    at_reference = metric.needs_reference and not start.is_floating_point() and torch.equal(start, batch.clean)
    return GradientRun(leaf, trace, value, metric.name if at_reference else "")
