"""Which tokens are at the top of what heads write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from circuitlab.core.errors import BadParameterError

if TYPE_CHECKING:
    from circuitlab.execute.effective_ov import Reads
    from circuitlab.model.protocol import Model

__all__ = ["TopTokens", "written_among_top"]


class TopTokens(Protocol):
    """A role that looks at the top tokens: how many, of what heads write (1) or lower (-1), reading what."""

    @property
    def top(self) -> int:
        """How many tokens count as the top."""
        ...

    @property
    def reads(self) -> Reads:
        """What heads after layer 0 are given of a token."""
        ...

    @property
    def sign(self) -> int:
        """1 for what is raised, -1 for what is lowered."""
        ...


def written_among_top(model: Model, sources: Sequence[int], targets: Sequence[int], role: TopTokens) -> np.ndarray:
    """Whether each target is among the top tokens that each head writes for each source, (layer, head, source, target).

    Raises
    ------
    BadParameterError
        If the whole vocabulary would be at the top.
    """
    import torch  # noqa: PLC0415 - listing roles must not load torch

    from circuitlab.execute.effective_ov import EffectiveOV  # noqa: PLC0415

    if role.top >= model.spec.d_vocab:
        what = f"top={role.top}, and {model.spec.name} has {model.spec.d_vocab} tokens: every one would be at the top."
        raise BadParameterError(what, "Use a smaller top.")
    circuit = EffectiveOV.of(model, torch.tensor(sources), role.reads)
    wanted, layers = torch.tensor(targets), range(model.spec.n_layers)
    return np.stack([circuit.among_top(layer, wanted, role.top, sign=role.sign).cpu().numpy() for layer in layers])
