"""One layer's tensors at a time, read into memory that is reused, while a thread reads the next layer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from circuitlab.core.errors import ModelError
from circuitlab.model.streaming.shards import ALIGNED, Shards

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LayerSource", "Reading"]


@dataclass(eq=False)
class Reading:
    """What was read so far.

    Parameters
    ----------
    layers : int
        Number of layers read.
    bytes : int
        Bytes of these layers.
    seconds : float
        Seconds that this took, beside other work where a thread read ahead.
    waited : float
        Seconds that work waited for layers.
    """

    layers: int = 0
    bytes: int = 0
    seconds: float = 0.0
    waited: float = 0.0


class _Ahead(threading.Thread):
    """Reads one layer into one buffer, and ends."""

    def __init__(self, source: LayerSource, layer: int, buffer: int) -> None:
        super().__init__(name=f"circuitlab reads layer {layer}", daemon=True)
        self.source, self.layer, self.buffer = source, layer, buffer
        self.tensors: dict[str, Tensor] = {}
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.tensors = self.source.read_layer(self.layer, self.buffer)
        except Exception as error:  # raised again where the layer is needed
            self.error = error

    def result(self) -> dict[str, Tensor]:
        self.join()
        if self.error is not None:
            raise self.error
        return self.tensors


@dataclass(eq=False)
class LayerSource:
    """The layers of a folder of weights. Two buffers hold the bytes of this layer and of the next, a third set what is widened.

    Tensors are valid until the layer after the next is asked for; `StreamedBlocks` hands them out and knows when they end.

    Parameters
    ----------
    shards : Shards
        The files.
    names : sequence of mapping of str to str
        For each layer, names in the files by name inside the layer.
    dtype : torch.dtype
        Dtype in which layers are handed out.
    reading : Reading
        What was read so far.
    """

    shards: Shards
    names: Sequence[Mapping[str, str]]
    dtype: torch.dtype
    reading: Reading = field(default_factory=Reading)

    def __post_init__(self) -> None:
        self.layer_bytes = max(sum(self._room(name) for name in names.values()) for names in self.names)
        self._buffers: list[Tensor] = []
        self._wide: dict[tuple[str, torch.dtype], Tensor] = {}
        self._now: tuple[int, dict[str, Tensor], int] | None = None
        self._ahead: _Ahead | None = None
        self._converted: dict[tuple[str, torch.dtype], Tensor] = {}
        self.loads = 0  # how often another layer came into memory

    @property
    def layer(self) -> int | None:
        """The layer that is in memory."""
        return None if self._now is None else self._now[0]

    @property
    def total_bytes(self) -> int:
        """Bytes of all layers."""
        return sum(self.shards.places[name].size for names in self.names for name in names.values())

    @property
    def seconds_per_byte(self) -> float:
        """Seconds that reading took so far, by bytes."""
        return self.reading.seconds / max(1, self.reading.bytes)

    def bytes_to_come(self, *, rounded: bool) -> int:
        """Bytes of buffers that are not in memory yet; with ``rounded`` those of a layer in bfloat16, too, where it is not stored so."""
        wanted = [self.dtype, torch.bfloat16] if rounded else [self.dtype]
        converted = sum(max(sum(self._converted_bytes(name, dtype) for name in names.values()) for names in self.names) for dtype in wanted)
        has = [*self._buffers, *self._wide.values()]
        return max(0, 2 * self.layer_bytes + converted - sum(room.numel() * room.element_size() for room in has))

    def _converted_bytes(self, name: str, dtype: torch.dtype) -> int:
        place = self.shards.places[name]
        return 0 if place.dtype == dtype else math.prod(place.shape) * dtype.itemsize

    def load(self, layer: int, following: int | None = None) -> None:
        """Have a layer in memory, and begin to read the next one: ``following``, or the next in the direction of travel."""
        before = self.layer
        if before == layer:
            return
        began = time.perf_counter()
        self._converted = {}
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead.layer == layer:
            self._now, ready = None, ahead.result()
            buffer = ahead.buffer
        else:
            if ahead is not None:
                ahead.join()  # its buffer is needed
            self._now, buffer = None, 0
            ready = self.read_layer(layer, buffer)
        self._now = (layer, ready, buffer)
        self.loads += 1
        self.reading.waited += time.perf_counter() - began
        if following is None:
            following = layer - 1 if before is not None and before == layer + 1 else layer + 1
        if 0 <= following < len(self.names):
            self._ahead = _Ahead(self, following, 1 - buffer)
            self._ahead.start()

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor of the layer in memory, by its name inside the layer; converted once, into memory that the next layer reuses."""
        if self._now is None:
            what = f"{name!r} was asked for while no layer is in memory."
            raise ModelError(what, "Load a layer first.")
        raw, wanted = self._now[1][name], dtype or self.dtype
        if raw.dtype == wanted:
            return raw
        key = (name, wanted)
        if key not in self._converted:
            room = self._wide.get(key)
            if room is None or room.numel() < raw.numel():
                room = self._wide[key] = torch.empty(raw.numel(), dtype=wanted)
            self._converted[key] = room[: raw.numel()].view(raw.shape).copy_(raw)
        return self._converted[key]

    def read_layer(self, layer: int, buffer: int) -> dict[str, Tensor]:
        """Read all tensors of a layer into one of the two buffers."""
        while len(self._buffers) <= buffer:
            self._buffers.append(torch.empty(self.layer_bytes, dtype=torch.uint8))
        began, used, tensors = time.perf_counter(), 0, {}
        for inside, name in self.names[layer].items():
            start = used + self._shift(name)
            size = self.shards.places[name].size
            tensors[inside] = self.shards.read_into(name, self._buffers[buffer][start : start + size])
            used += self._room(name)
            self.reading.bytes += size
        self.reading.layers += 1
        self.reading.seconds += time.perf_counter() - began
        return tensors

    def _shift(self, name: str) -> int:
        """Bytes by which a tensor lies beside a multiple of `ALIGNED`.

        transformers maps weights that need no conversion from their file, where they lie anywhere. Some products are rounded differently
        for another alignment, so these weights lie here as they do there.
        """
        place = self.shards.places[name]
        return place.offset % ALIGNED if place.dtype == self.dtype else 0

    def _room(self, name: str) -> int:
        return -(-(self._shift(name) + self.shards.places[name].size) // ALIGNED) * ALIGNED

    def settle(self) -> None:
        """Wait for the thread that reads ahead, and forget what is in memory; the buffers stay."""
        ahead, self._ahead, self._now, self._converted = self._ahead, None, None, {}
        if ahead is not None:
            ahead.join()

    def release(self) -> None:
        """`settle`, and give the buffers back."""
        self.settle()
        self._buffers, self._wide = [], {}
