"""Source: the nodes and positions whose relevance is computed, and the baseline of their outputs. Does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from circuitlab.core.errors import BadParameterError, UnknownNameError
from circuitlab.core.nodes import Embed, Head, KVHead, Mlp, Node, parse_node
from circuitlab.methods.decomposition.rule import Rule

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from circuitlab.core.nodes import Universe
    from circuitlab.model.batch import ContrastBatch

__all__ = ["BASELINES", "Baseline", "Options", "Source", "ordered"]

Baseline: TypeAlias = Literal["corrupt", "mean", "zero"]

BASELINES: tuple[str, ...] = get_args(Baseline)
"""The irrelevant part of a source's output: that on the paired corrupt prompt, the mean over corrupt prompts, or zero."""

_KINDS = (Embed, KVHead, Head, Mlp)


@dataclass(frozen=True)
class Source:
    """Nodes whose outputs are relevant together.

    Parameters
    ----------
    nodes : tuple of Node or str
        Heads (their z), key/value heads (keys and values), MLPs, or the embedding.
    at : tuple of str or int
        Positions: marks of the batch, or numbers from 0; all positions if empty.

    Raises
    ------
    BadParameterError
        If there is no node, or one of another kind.

    Examples
    --------
    >>> str(Source(("a9.h6", "m3"), at=("END",)))
    'a9.h6 + m3 at END'
    """

    nodes: tuple[Node, ...]
    at: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        nodes = tuple(parse_node(node) if isinstance(node, str) else node for node in self.nodes)
        object.__setattr__(self, "nodes", nodes)
        if wrong := [str(node) for node in nodes if not isinstance(node, _KINDS)]:
            what = f"{', '.join(wrong)} cannot be a source."
            raise BadParameterError(what, "Use heads (a9.h6), key/value heads (a9.kv2), MLPs (m3) or embed.")
        if not nodes:
            raise BadParameterError("A source has no nodes.", "Name at least one node.")

    def __str__(self) -> str:
        at = f" at {', '.join(map(str, self.at))}" if self.at else ""
        return " + ".join(map(str, self.nodes)) + at

    @property
    def layer(self) -> int:
        """The first layer of its nodes."""
        return min(0 if isinstance(node, Embed) else node.layer for node in self.nodes)  # type: ignore[union-attr]

    @property
    def early(self) -> bool:
        """Whether it has a node in that layer before attention mixes positions."""
        return any(isinstance(node, Embed | KVHead) and getattr(node, "layer", 0) == self.layer for node in self.nodes)

    def require(self, universe: Universe) -> None:
        """Raise `BadParameterError` unless every node belongs to the model."""
        if outside := [str(node) for node in self.nodes if node not in universe]:
            what = f"{', '.join(outside)} lie outside {universe}."
            raise BadParameterError(what, "Count layers and heads from 0.")

    def places(self, batch: ContrastBatch) -> Bool[Tensor, "pair pos"]:
        """Mask of the positions at which it is relevant; padding never is."""
        import torch  # noqa: PLC0415

        if not self.at:
            return batch.mask
        mask = torch.zeros_like(batch.mask)
        for position in self.at:
            positions = batch.mark(position) if isinstance(position, str) else batch.end * 0 + position
            if bool(((positions < 0) | (positions > batch.end)).any()):
                what = f"Position {position} lies outside some prompts of {int(batch.end.min()) + 1} or more tokens."
                raise BadParameterError(what, "Use marks, or positions that every prompt has.")
            mask[torch.arange(batch.n_pairs), positions] = True
        return mask


@dataclass(frozen=True)
class Options:
    """Settings of a decomposition.

    Parameters
    ----------
    rule : Rule
        How each step splits its output.
    baseline : {"corrupt", "mean", "zero"}
        The irrelevant part of a source's output: its output on the paired corrupt prompt, its mean over all corrupt prompts of the batch
        (published; by position if they have the same length, else over all positions), or zero. The rest is relevant.
    tokens_together : int
        Positions of all sources in one pass. It affects memory and time, not results.
    """

    rule: Rule = field(default_factory=Rule)
    baseline: Baseline = "corrupt"
    tokens_together: int = 6144

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES:
            raise UnknownNameError("baseline", str(self.baseline), BASELINES)
        if self.tokens_together < 1:
            what = f"tokens_together={self.tokens_together} is less than 1."
            raise BadParameterError(what, "Use 1 or more.")


def ordered(sources: Sequence[Source]) -> list[int]:
    """Indices of sources in the order in which they join a forward pass."""
    return sorted(range(len(sources)), key=lambda i: (sources[i].layer, not sources[i].early))
