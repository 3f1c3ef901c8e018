"""Which tokens are at the top of what heads write."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from circuitlab.core.errors import BadParameterError
from circuitlab.core.provenance import digest

if TYPE_CHECKING:
    from circuitlab.execute.effective_ov import Reads
    from circuitlab.model.protocol import Model

__all__ = ["TopTokens", "written_among_top"]


_KEPT = 4
"""Models and lists of tokens whose tables are kept in memory: a role and its opposite read one table."""
_TABLES: OrderedDict[str, dict[int, np.ndarray]] = OrderedDict()


@runtime_checkable
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

    What heads raise and what they lower is read off the same logits, which take most of the time, so that both are kept for the role of the
    opposite sign.

    Raises
    ------
    BadParameterError
        If the whole vocabulary would be at the top.
    """
    if role.top >= model.spec.d_vocab:
        what = f"top={role.top}, and {model.spec.name} has {model.spec.d_vocab} tokens: every one would be at the top."
        raise BadParameterError(what, "Use a smaller top.")
    known = digest([model.spec, list(sources), list(targets), role.top, role.reads])
    if known not in _TABLES:
        _TABLES[known] = _tables(model, sources, targets, role)
        if len(_TABLES) > _KEPT:
            _TABLES.popitem(last=False)
    _TABLES.move_to_end(known)
    return _TABLES[known][role.sign]


def _tables(model: Model, sources: Sequence[int], targets: Sequence[int], role: TopTokens) -> dict[int, np.ndarray]:
    """The table of what is raised (1), and of what is lowered (-1)."""
    import torch  # noqa: PLC0415 - listing roles must not load torch

    from circuitlab.execute.effective_ov import EffectiveOV  # noqa: PLC0415

    circuit = EffectiveOV.of(model, torch.tensor(sources), role.reads)
    wanted = torch.tensor(targets)
    layers = [circuit.among_top(layer, wanted, role.top) for layer in range(model.spec.n_layers)]
    return {sign: np.stack([tops[side].cpu().numpy() for tops in layers]) for side, sign in enumerate((1, -1))}
