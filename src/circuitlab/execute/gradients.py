"""What gradient methods share: a run with every intermediate value in one graph, and the metric at its end."""

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
        The leaf that asks for gradients: the residual stream entering layer 0, (pair, pos, d_model), or the output that was moved.
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
        """Gradient of each pair's own metric at values of the trace, each of that value's shape.

        Pairs do not interact, so the gradient of the sum holds every pair's own gradient. ``keep`` leaves the graph for another call;
        ``allow_zero`` lets a method that works on a few pairs at a time judge all of them together.

        Raises
        ------
        BadParameterError
            If the metric compares with this very run (``flat``), or every gradient is exactly zero: it does not change to first order.
        """
        import torch  # noqa: PLC0415

        if self.flat:
            what = f"{self.flat!r} has zero gradient at the clean run, which it compares with: it is at its maximum there."
            raise BadParameterError(what, "Differentiate at the corrupt run (direction='denoising'), or use logit_diff, or eap_ig.")
        found = torch.autograd.grad(self.value.sum(), list(at), retain_graph=keep, allow_unused=True)
        whole = [torch.zeros_like(value) if one is None else one for one, value in zip(found, at, strict=True)]
        if not allow_zero and not any(bool(one.any()) for one in whole):
            refuse_zero_gradient()
        return whole


def refuse_zero_gradient() -> NoReturn:
    """Raise `BadParameterError`: the metric has no gradient to attribute."""
    what = "The metric has zero gradient at the run that is differentiated (KL divergence has, at the clean run)."
    raise BadParameterError(what, "Use logit_diff, eap_ig (which leaves that point), or exact activation_patching.")


def gradient_run(
    model: Model,
    metric: Metric,
    batch: ContrastBatch,
    start: Int[Tensor, "pair pos"] | Float[Tensor, "pair pos d_model"],
    decoder: Decoder | None = None,
    *,
    track: bool = True,
) -> GradientRun:
    """Run prompts, given as token ids or as the residual stream entering layer 0, with gradients on.

    Parameters
    ----------
    model : Model
    metric : Metric
        Its value at the answer position ends the graph.
    batch : ContrastBatch
        Answers, foils and answer positions; ``start`` replaces its prompts.
    start : Tensor
        Token ids (pair, pos), or embeddings (pair, pos, d_model), which the edits of an edited model take for those of the clean prompts.
    decoder : Decoder, optional
        Another functional forward of the same model (for example with a changed backward pass); if it has an ``unembed``, that makes
        the logits.
    track : bool
        False runs without a graph: the same values, nothing to differentiate.
    """
    import torch  # noqa: PLC0415

    from circuitlab.model.places import Places  # noqa: PLC0415 - torch

    forward = decoder or model.decoder
    embed = start if start.is_floating_point() else forward.embed(start)
    unembed = getattr(forward, "unembed", model.unembed)
    ids, placed = (None, batch) if metric.whole_vocabulary else batch.over_tokens()
    with torch.set_grad_enabled(track):
        leaf = embed.detach().clone().requires_grad_(track)
        trace = forward.trace(leaf, tap=forward.tap(Places.of(batch, None if start.is_floating_point() else start)))
        last = trace.final[torch.arange(len(leaf)), batch.end.to(leaf.device)]
        value = metric(unembed(last, ids), placed)
    at_reference = metric.needs_reference and not start.is_floating_point() and torch.equal(start, batch.clean)
    return GradientRun(leaf, trace, value, metric.name if at_reference else "")
