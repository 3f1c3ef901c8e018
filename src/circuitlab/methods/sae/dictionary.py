"""Dictionary: a trained sparse autoencoder that turns a node's output into an integer code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from circuitlab.core.errors import BadParameterError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = ["SILENT", "Dictionary"]

SILENT = -1
"""The code of an output that activates no unit."""

_ROWS = 16384
"""Rows that are encoded together."""


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A sparse autoencoder: ``a = act(encoder @ (x / scale - bias) + encoder_bias)``, ``x ~ scale * (a @ decoder + bias)``.

    Parameters
    ----------
    encoder : Tensor, shape (unit, d_model)
    encoder_bias : Tensor, shape (unit,)
    decoder : Tensor, shape (unit, d_model)
    bias : Tensor, shape (d_model,)
        Added after the decoder, and taken off the input before the encoder unless ``centred`` is false.
    scale : float
        What inputs are divided by.
    activation : {"relu", "jumprelu", "topk"}
        A rectifier; one that also silences units at or below their threshold; or one that keeps the ``k`` largest units.
    threshold : Tensor, shape (unit,), optional
        Of jumprelu.
    k : int, optional
        Of topk.
    centred : bool
        Whether the bias is taken off the input.

    Raises
    ------
    BadParameterError
        If shapes do not fit, or an activation lacks its threshold or k.
    """

    encoder: Float[Tensor, "unit d_model"]
    encoder_bias: Float[Tensor, " unit"]
    decoder: Float[Tensor, "unit d_model"]
    bias: Float[Tensor, " d_model"]
    scale: float = 1.0
    activation: Literal["relu", "jumprelu", "topk"] = "relu"
    threshold: Float[Tensor, " unit"] | None = None
    k: int | None = None
    centred: bool = True

    def __post_init__(self) -> None:
        units, width = self.encoder.shape
        shapes = [tuple(part.shape) for part in (self.encoder_bias, self.decoder, self.bias)]
        if shapes != [(units,), (units, width), (width,)]:
            what = f"A dictionary of {units} units on {width} numbers cannot have biases and decoder of shapes {shapes}."
            raise BadParameterError(what, f"Give ({units},), ({units}, {width}) and ({width},).")
        lacks = {"jumprelu": self.threshold is None, "topk": self.k is None, "relu": False}
        if self.activation not in lacks or lacks[self.activation]:
            what = f"activation={self.activation!r} with threshold={self.threshold is not None}, k={self.k} is incomplete."
            raise BadParameterError(what, "Use 'relu', 'jumprelu' with thresholds, or 'topk' with k.")

    @property
    def n_units(self) -> int:
        """Number of units, and so of codes beside `SILENT`."""
        return int(self.encoder.shape[0])

    @property
    def d_model(self) -> int:
        """Width of the outputs it reads."""
        return int(self.encoder.shape[1])

    def encode(self, outputs: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows unit"]:
        """Activations of every unit.

        Raises
        ------
        BadParameterError
            If the outputs have another width than the dictionary was trained on.
        """
        if outputs.shape[-1] != self.d_model:
            what = f"This dictionary reads {self.d_model} numbers per output; these outputs have {outputs.shape[-1]}."
            raise BadParameterError(what, "Use a dictionary trained on what this model's heads add to the residual stream.")
        encoder = self.encoder.to(outputs.device)
        offset = self.encoder_bias - self.encoder @ self.bias if self.centred else self.encoder_bias
        return self._activate((outputs / self.scale) @ encoder.T + offset.to(outputs.device))

    def decode(self, activations: Float[Tensor, "*rows unit"]) -> Float[Tensor, "*rows d_model"]:
        """The outputs that activations stand for."""
        return (activations @ self.decoder.to(activations.device) + self.bias.to(activations.device)) * self.scale

    def codes(self, outputs: Float[Tensor, "*rows d_model"]) -> Int[Tensor, "*rows"]:
        """The most active unit of each output; `SILENT` where none is active.

        The published code takes the argmax of equal zeros, 0; here silence is a code of its own, so that it cannot be taken for unit 0.
        """
        import torch  # noqa: PLC0415 - listing methods must not load torch

        flat = outputs.reshape(-1, outputs.shape[-1])
        found = torch.empty(len(flat), dtype=torch.long)
        for start in range(0, len(flat), _ROWS):
            largest, unit = self.encode(flat[start : start + _ROWS]).max(-1)
            found[start : start + _ROWS] = torch.where(largest > 0, unit, SILENT).cpu()
        return found.reshape(outputs.shape[:-1])

    def explained(self, outputs: Float[Tensor, "*rows d_model"]) -> float:
        """Share of the outputs' variance (around their mean) that the reconstruction explains; at most 1, and negative below the mean."""
        flat = outputs.reshape(-1, outputs.shape[-1])
        spread = float((flat - flat.mean(0)).pow(2).sum())
        missed = sum(float((self.decode(self.encode(rows)) - rows).pow(2).sum()) for rows in flat.split(_ROWS))
        return 1.0 - missed / spread if spread else 1.0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, contiguous and on the processor; what a file holds."""
        found: dict[str, Any] = {name: getattr(self, name) for name in ("encoder", "encoder_bias", "decoder", "bias", "threshold")}
        return {name: value.detach().cpu().contiguous() for name, value in found.items() if value is not None}

    def _activate(self, before: Tensor) -> Tensor:
        after = before.relu()
        if self.activation == "jumprelu" and self.threshold is not None:
            return after * (before > self.threshold.to(before.device))
        if self.activation == "topk" and self.k is not None:
            kept = after.topk(min(self.k, self.n_units), dim=-1)
            return after.new_zeros(after.shape).scatter(-1, kept.indices, kept.values)
        return after
