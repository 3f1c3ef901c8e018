"""What a run will take, said before it starts: memory of the process, readings of a streamed model, passes and seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.execute.arrangement import arrangement_on
from circuitlab.execute.cost import forward_passes, size_of
from circuitlab.execute.memory import gibibytes, memory_budget, resident_bytes
from circuitlab.execute.needs import blocks_of, is_streamed

if TYPE_CHECKING:
    from circuitlab.execute.chunks import Chunks
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["Plan", "PlansMemory", "plan_of", "within_memory"]

_GIB = 2**30
_TIMED = 5
_RATE_SHARE = 0.75
"""Share of the rate of large matrix products that runs reach."""


@runtime_checkable
class PlansMemory(Protocol):
    """A method that says how it divides a batch."""

    def chunks(self, model: Model, batch: ContrastBatch) -> Chunks:
        """Chunks of pairs and their memory."""
        ...


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Parameters
    ----------
    peak : int
        Most bytes that the process will hold.
    passes : int
        Waves of chunks of pairs, one after another.
    readings : int
        How often every layer is read from its files, at most; 0 for a model in memory. Screened patching, which decides on its way how
        often there is more to patch, is planned with one more time.
    read : int
        Bytes that are read.
    seconds : float
        Estimated from the rates of matrix products and of reading that were measured on this machine.
    """

    peak: int
    passes: int
    readings: int
    read: int
    seconds: float

    def __str__(self) -> str:
        passes = f"{self.passes} pass{'es' if self.passes > 1 else ''}"
        read = f", {self.readings} readings of every layer ({self.read / 1e9:.1f} GB)" if self.readings else ""
        return f"{passes}{read}, at most about {self.peak / _GIB:.1f} GiB of memory, about {max(1, round(self.seconds))} s"


def plan_of(method: Any, model: Model, batch: ContrastBatch) -> Plan:
    """The plan of a run within the present budget (`circuitlab.execute.memory.memory_budget`, `within_memory`).

    Raises
    ------
    BadParameterError
        If the method does not say how it divides a batch.
    """
    if not isinstance(method, PlansMemory):
        what = f"{method.name} does not say how much memory it takes."
        raise BadParameterError(what, "activation_patching, screened_patching, attribution_patching, atp_star and path_patching do.")
    chunks = method.chunks(model, batch)
    waves = list(arrangement_on(model, chunks.fits).waves(chunks.pairs))
    streamed = is_streamed(model)
    readings = chunks.more_readings + sum(max(map(chunks.readings, wave)) for wave in waves) if streamed else 0
    read = readings * model.source.total_bytes if streamed else 0  # type: ignore[attr-defined]
    held = max([chunks.elsewhere, *map(chunks.bytes_of, waves)]) + _buffers_to_come(method, model)
    reduced = getattr(method, "precision", "full") != "full"
    computing = forward_passes(method, size_of(model, batch)) * _pass_seconds(model, batch, reduced=reduced)
    reading = read * model.source.seconds_per_byte if streamed else 0.0  # type: ignore[attr-defined]
    return Plan(resident_bytes() + held, len(waves), readings, read, max(computing, reading))


def _buffers_to_come(method: Any, model: Model) -> int:
    """Bytes of a streamed model's buffers that are not in memory yet."""
    if not is_streamed(model):
        return 0
    return int(model.source.bytes_to_come(rounded=getattr(method, "precision", "full") != "full"))  # type: ignore[attr-defined]


def _pass_seconds(model: Model, batch: ContrastBatch, *, reduced: bool) -> float:
    """Seconds of one forward pass of one pair's prompt, from the rate of a product of this model's size, in bfloat16 if ``reduced``."""
    import torch  # noqa: PLC0415

    spec, blocks = model.spec, blocks_of(model)
    weights = sum(
        linear.weight.numel()
        for block in blocks
        for linear in (block.q, block.k, block.v, block.o, block.gate, block.up, block.down)
        if linear is not None
    )
    dtype = torch.bfloat16 if reduced else torch.float32
    x, w = torch.ones(1024, spec.d_model, dtype=dtype), torch.ones(2 * spec.d_model, spec.d_model, dtype=dtype).T
    seconds: list[float] = []
    for _ in range(_TIMED):
        began = time.perf_counter()
        torch.mm(x, w)
        seconds.append(time.perf_counter() - began)
    rate = 2 * x.shape[0] * w.numel() / min(seconds)  # others may have disturbed the slower ones
    return float((batch.end + 1).float().mean()) * 2 * weights / (rate * _RATE_SHARE)


@contextmanager
def within_memory(memory: str | float | None, model: Model, method: Any) -> Iterator[None]:
    """Keep the whole process within an amount of memory inside the ``with`` block, as far as runs are planned.

    Parameters
    ----------
    memory : str, float or None
        Such as ``"4GiB"``, or a number of GiB; None leaves the budget as it is.
    model : Model
        Loaded; what the process holds now, it will hold.
    method : Method
        The method that will run.

    Raises
    ------
    BadParameterError
        If it is no amount of memory.
    ModelError
        If the process holds as much already.
    """
    if memory is None:
        yield
        return
    limit, now, to_come = gibibytes(memory) * _GIB, resident_bytes(), _buffers_to_come(method, model)
    if limit - now - to_come <= 0:
        has = f"the process holds {now / _GIB:.2f} GiB with {model.spec.name} loaded"
        more = f", and buffers for its layers take {to_come / _GIB:.2f} more" if to_come else ""
        what = f"memory={memory!r} leaves nothing for {method.name}: {has}{more}."
        raise ModelError(what, "Allow more, or load the model with stream=True.")
    with memory_budget((limit - now - to_come) / _GIB, strict=True):
        yield
