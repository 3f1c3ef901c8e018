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
    encoder, decoder : Tensor, shape (unit, d_model)
        Weights of the encoder and the decoder.
    encoder_bias : Tensor, shape (unit,)
        Bias of the encoder.
    bias : Tensor, shape (d_model,)
        Added after the decoder, and subtracted from the input of the encoder unless ``centred`` is false.
    scale : float
        Divisor of the inputs.
    activation : {"relu", "jumprelu", "topk"}
        A rectifier; a rectifier with zero at or below each unit's threshold; or a rectifier that keeps the ``k`` largest units.
    threshold : Tensor, shape (unit,), optional
        Thresholds of jumprelu.
    k : int, optional
        Number of active units of topk.
    centred : bool
        Whether the bias is subtracted from the input.

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
        """Number of units, and of codes other than `SILENT`."""
        return int(self.encoder.shape[0])

    @property
    def d_model(self) -> int:
        """Width of the outputs that it encodes."""
        return int(self.encoder.shape[1])

    def encode(self, outputs: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows unit"]:
        """Activations of every unit.

        Raises
        ------
        BadParameterError
            If the outputs have another width than the dictionary was trained on.
        """
        if outputs.shape[-1] != self.d_model:
            what = f"This dictionary encodes outputs of width {self.d_model}; these outputs have width {outputs.shape[-1]}."
            raise BadParameterError(what, "Use a dictionary trained on the outputs of this model's heads.")
        encoder = self.encoder.to(outputs.device)
        offset = self.encoder_bias - self.encoder @ self.bias if self.centred else self.encoder_bias
        return self._activate((outputs / self.scale) @ encoder.T + offset.to(outputs.device))

    def decode(self, activations: Float[Tensor, "*rows unit"]) -> Float[Tensor, "*rows d_model"]:
        """The reconstruction of outputs from activations."""
        return (activations @ self.decoder.to(activations.device) + self.bias.to(activations.device)) * self.scale

    def codes(self, outputs: Float[Tensor, "*rows d_model"]) -> Int[Tensor, "*rows"]:
        """The most active unit of each output; `SILENT` if none is active.

        The published code takes the argmax of equal zeros, which is 0; here silence is a separate code and cannot be confused with unit 0.
        """
        import torch  # noqa: PLC0415 - listing methods must not load torch

        flat = outputs.reshape(-1, outputs.shape[-1])
        codes = torch.empty(len(flat), dtype=torch.long)
        for start in range(0, len(flat), _ROWS):
            largest, unit = self.encode(flat[start : start + _ROWS]).max(-1)
            codes[start : start + _ROWS] = torch.where(largest > 0, unit, SILENT).cpu()
        return codes.reshape(outputs.shape[:-1])

    def explained(self, outputs: Float[Tensor, "*rows d_model"]) -> float:
        """Share of the outputs' variance that the reconstruction explains: at most 1, and negative if the mean is a better prediction."""
        flat = outputs.reshape(-1, outputs.shape[-1])
        spread = float((flat - flat.mean(0)).pow(2).sum())
        missed = sum(float((self.decode(self.encode(rows)) - rows).pow(2).sum()) for rows in flat.split(_ROWS))
        return 1.0 - missed / spread if spread else 1.0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, contiguous and on the CPU, as stored in a file."""
        tensors: dict[str, Any] = {name: getattr(self, name) for name in ("encoder", "encoder_bias", "decoder", "bias", "threshold")}
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items() if value is not None}

    def _activate(self, before: Tensor) -> Tensor:
        after = before.relu()
        if self.activation == "jumprelu" and self.threshold is not None:
            return after * (before > self.threshold.to(before.device))
        if self.activation == "topk" and self.k is not None:
            largest = after.topk(min(self.k, self.n_units), dim=-1)
            return after.new_zeros(after.shape).scatter(-1, largest.indices, largest.values)
        return after
