"""Source: the nodes and positions that a decomposition follows, and what of them counts as relevant. Imports no torch."""

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
"""What of a source's output is irrelevant: that of the paired corrupt prompt, the mean over corrupt prompts, or nothing."""

_KINDS = (Embed, KVHead, Head, Mlp)


@dataclass(frozen=True)
class Source:
    """Nodes whose outputs are relevant, together.

    Parameters
    ----------
    nodes : tuple of Node or str
        Heads (their z), key/value heads (keys and values), MLPs, or the embedding.
    at : tuple of str or int
        Positions: marks of the batch, or places counted from 0; every position if empty.

    Raises
    ------
    BadParameterError
        If there is no node, or one that is none of these.

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
            raise BadParameterError("A source without nodes has nothing to follow.", "Name at least one node.")

    def __str__(self) -> str:
        at = f" at {', '.join(map(str, self.at))}" if self.at else ""
        return " + ".join(map(str, self.nodes)) + at

    @property
    def layer(self) -> int:
        """The first layer that it touches."""
        return min(0 if isinstance(node, Embed) else node.layer for node in self.nodes)  # type: ignore[union-attr]

    @property
    def early(self) -> bool:
        """Whether it touches that layer before attention mixes positions."""
        return any(isinstance(node, Embed | KVHead) and getattr(node, "layer", 0) == self.layer for node in self.nodes)

    def require(self, universe: Universe) -> None:
        """Raise `BadParameterError` unless every node belongs to the model."""
        if outside := [str(node) for node in self.nodes if node not in universe]:
            what = f"{', '.join(outside)} lie outside {universe}."
            raise BadParameterError(what, "Count layers and heads from 0.")

    def places(self, batch: ContrastBatch) -> Bool[Tensor, "pair pos"]:
        """Where it is relevant; padding never is."""
        import torch  # noqa: PLC0415

        if not self.at:
            return batch.mask
        found = torch.zeros_like(batch.mask)
        for one in self.at:
            place = batch.mark(one) if isinstance(one, str) else batch.end * 0 + one
            if bool(((place < 0) | (place > batch.end)).any()):
                what = f"Position {one} lies outside some prompts of {int(batch.end.min()) + 1} or more tokens."
                raise BadParameterError(what, "Use marks, or places that every prompt has.")
            found[torch.arange(batch.n_pairs), place] = True
        return found


@dataclass(frozen=True)
class Options:
    """How a decomposition is run.

    Parameters
    ----------
    rule : Rule
    baseline : {"corrupt", "mean", "zero"}
        What of a source's output is irrelevant: the paired corrupt prompt's, the mean over all corrupt prompts of the batch (published;
        position by position where they have one length, else over all positions), or nothing. The rest is relevant.
    tokens_together : int
        Positions of all sources that go up together; changes memory and time, not results.
    """

    rule: Rule = field(default_factory=Rule)
    baseline: Baseline = "corrupt"
    tokens_together: int = 6144

    def __post_init__(self) -> None:
        if self.baseline not in BASELINES:
            raise UnknownNameError("baseline", str(self.baseline), BASELINES)
        if self.tokens_together < 1:
            what = f"tokens_together={self.tokens_together} leaves nothing to run."
            raise BadParameterError(what, "Use 1 or more.")


def ordered(sources: Sequence[Source]) -> list[int]:
    """Indices of sources in the order in which they join a forward pass."""
    return sorted(range(len(sources)), key=lambda i: (sources[i].layer, not sources[i].early))
