"""Train the small sparse autoencoder on a few examples, with several seeds at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.methods.sae.dictionary import Dictionary

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

__all__ = ["Training", "train"]


@dataclass(frozen=True)
class Training:
    """How a dictionary is trained; the defaults are the published ones.

    Parameters
    ----------
    size : int
        Number of units (200; 300 in the published sweep over numbers of examples).
    sparsity : float
        Weight of the mean L1 norm of the activations, relative to the mean squared error.
    rate : float
        Learning rate of Adam.
    epochs : int
        Number of steps, each on all rows.
    scale : {"raw", "rms"}
        ``"raw"`` uses outputs unchanged (published); ``"rms"`` divides them by their root mean square over all training rows, which makes
        ``sparsity`` comparable between models.
    decoder : {"free", "unit"}
        ``"free"`` allows decoder rows of any norm; ``"unit"`` rescales them to norm 1 after every step (Bricken et al. 2023).
    """

    size: int = 200
    sparsity: float = 0.02
    rate: float = 1e-3
    epochs: int = 500
    scale: Literal["raw", "rms"] = "raw"
    decoder: Literal["free", "unit"] = "free"

    def __post_init__(self) -> None:
        if self.scale not in {"raw", "rms"}:
            raise UnknownNameError("scale", self.scale, ["raw", "rms"])
        if self.decoder not in {"free", "unit"}:
            raise UnknownNameError("decoder", self.decoder, ["free", "unit"])
        if self.size < 1 or self.epochs < 1 or self.rate <= 0 or self.sparsity < 0:
            what = f"Training is not possible with size={self.size}, epochs={self.epochs}, rate={self.rate}, sparsity={self.sparsity}."
            raise BadParameterError(what, "Use at least one unit and one epoch, a positive rate and a sparsity of 0 or more.")


def train(rows: Float[Tensor, "seed row d_model"], settings: Training, seeds: Sequence[int]) -> list[Dictionary]:
    """Train one dictionary per seed.

    Parameters
    ----------
    rows : Tensor, shape (seed, row, d_model)
        Training outputs of each seed, in float32; training runs on their device.
    settings : Training
        Settings of the training.
    seeds : sequence of int
        Seeds of the initial weights. The global random state is neither read nor changed.

    Notes
    -----
    Full-batch Adam on ``mean((decode(a) - x)^2) + sparsity * mean(a)``. Encoder and decoder start uniform within plus or minus one over
    the square root of their number of inputs, biases at 0. Each epoch and seed takes ten matrix products of rows x size x d_model
    operations: 500 epochs on ten prompts of SmolLM2-135M (2700 rows of 576) are about 1.6 Tflop. The result of a seed does not depend on
    the other seeds, except for rounding.
    """
    import torch  # noqa: PLC0415 - listing methods must not load torch

    if rows.ndim != 3 or rows.shape[0] != len(seeds) or not rows.shape[1]:  # noqa: PLR2004 - seed, row, d_model
        what = f"Training rows of shape {tuple(rows.shape)} do not fit {len(seeds)} seeds."
        raise BadParameterError(what, "Give (seed, row, d_model) with at least one row.")
    rows = rows.detach().float()
    scales = _scales(rows, settings)
    rows = rows / scales[:, None, None]
    weights = _start(rows, settings, seeds)
    with torch.enable_grad():
        _descend(rows, weights, settings)
    encoder, encoder_bias, decoder, bias = (part.detach().cpu() for part in weights)
    return [
        Dictionary(encoder[i].clone(), encoder_bias[i].clone(), decoder[i].clone(), bias[i].clone(), scale=float(scales[i]))
        for i in range(len(seeds))
    ]


def _scales(rows: Tensor, settings: Training) -> Float[Tensor, " seed"]:
    if settings.scale == "raw":
        return rows.new_ones(len(rows))
    size = rows.pow(2).mean((1, 2)).sqrt()
    return size.where(size > 0, 1.0)


def _start(rows: Tensor, settings: Training, seeds: Sequence[int]) -> list[Tensor]:
    """Encoder, its bias, decoder and bias of every seed."""
    import torch  # noqa: PLC0415 - listing methods must not load torch

    units, width = settings.size, rows.shape[2]
    encoders, decoders = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        encoders.append((torch.rand(units, width, generator=generator) * 2 - 1) / width**0.5)
        decoders.append((torch.rand(units, width, generator=generator) * 2 - 1) / units**0.5)
    decoder = torch.stack(decoders)
    if settings.decoder == "unit":
        decoder = decoder / decoder.norm(dim=-1, keepdim=True)
    biases = [torch.zeros(len(seeds), n) for n in (units, width)]
    return [part.to(rows.device).requires_grad_() for part in (torch.stack(encoders), biases[0], decoder, biases[1])]


def _descend(rows: Tensor, weights: list[Tensor], settings: Training) -> None:
    """Run all epochs; the weights are changed in place."""
    import torch  # noqa: PLC0415 - listing methods must not load torch

    optimiser = torch.optim.Adam(weights, lr=settings.rate, fused=True)
    for _ in range(settings.epochs):
        optimiser.zero_grad()
        _loss(rows, weights, settings.sparsity).sum().backward()
        optimiser.step()
        if settings.decoder == "unit":
            with torch.no_grad():
                weights[2].div_(weights[2].norm(dim=-1, keepdim=True))


def _loss(rows: Float[Tensor, "seed row d_model"], weights: Sequence[Tensor], sparsity: float) -> Float[Tensor, " seed"]:
    """Loss of each seed.

    The bias is applied in the offset of the encoder and not to the rows, so that no gradient of the rows' size is needed.
    """
    import torch  # noqa: PLC0415 - listing methods must not load torch

    encoder, encoder_bias, decoder, bias = weights
    offset = encoder_bias - torch.einsum("sud,sd->su", encoder, bias)
    activations = torch.baddbmm(offset[:, None], rows, encoder.transpose(1, 2)).relu()
    rebuilt = torch.baddbmm(bias[:, None], activations, decoder)
    return (rebuilt - rows).pow(2).mean((1, 2)) + sparsity * activations.mean((1, 2))
