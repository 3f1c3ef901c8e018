"""PlantedModel: a model whose circuit is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

from circuitlab.core.nodes import Edge, Node, parse_edge
from circuitlab.model.batch import ContrastBatch

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model
    from circuitlab.model.toy.wiring import Form

__all__ = ["BACKGROUND", "PlantedModel", "Prompt", "PromptMaker", "draw", "edges"]

BACKGROUND = 0.02
"""Size of what heads and MLPs outside the circuit write, relative to features of size 1: large enough that no score is exactly 0, small
enough not to matter."""


class Prompt(NamedTuple):
    """One pair of prompts as token ids, with the answer, the foil and named positions."""

    clean: list[int]
    corrupt: list[int]
    answer: int
    foil: int
    marks: dict[str, int]


PromptMaker: TypeAlias = Callable[[int, torch.Generator], Prompt]
"""From the number of a pair and a random generator to the pair."""


@dataclass(frozen=True, eq=False)
class PlantedModel:
    """A model together with its true circuit.

    Parameters
    ----------
    circuit, form : str
        The planted circuit, for example ``"induction"``, and the model: ``"gqa"`` (Llama, RMSNorm, rotary positions, 2 key/value
        heads for 4 query heads) or ``"mha"`` (GPT-2, LayerNorm, learned positions, multi-head attention).
    model : Model
        2 or 3 layers of 4 query heads. Heads and MLPs outside the circuit write nothing or, with a background, a little noise.
    helpers, hinderers : frozenset of Node
        Nodes whose output in the clean prompt raises or lowers the answer's logit, compared with their output in the corrupt prompt.
    edges : frozenset of Edge
        Edges that carry the difference between clean and corrupt prompt, with q/k/v ports and key/value heads.
    positions : mapping of Node to tuple of str
        Marks of the batch at which each true node acts.
    prompt : callable
        Makes one pair of prompts.
    candidates : tuple of int
        Tokens that can be an answer.
    distractors : frozenset of Node
        Heads that attend like the true ones and write to features that nothing reads.
    visible : bool
        Whether swapping one node at a time between the prompts reveals every true node.
    reason : str
        If not, one sentence that says why; otherwise empty.
    """

    circuit: str
    form: Form
    model: Model
    helpers: frozenset[Node]
    hinderers: frozenset[Node]
    edges: frozenset[Edge]
    positions: Mapping[Node, tuple[str, ...]]
    prompt: PromptMaker = field(repr=False)
    candidates: tuple[int, ...]
    distractors: frozenset[Node] = frozenset()
    visible: bool = True
    reason: str = ""

    @property
    def name(self) -> str:
        """Circuit and form, for example ``"induction-gqa"``."""
        return f"{self.circuit}-{self.form}"

    @property
    def nodes(self) -> frozenset[Node]:
        """Every true node."""
        return self.helpers | self.hinderers

    def batch(self, n: int = 4, *, seed: int = 0) -> ContrastBatch:
        """Sample pairs; every candidate token that is neither answer nor foil is a distractor token.

        Parameters
        ----------
        n : int
            Number of pairs.
        seed : int
            Seed of the prompts; a larger batch begins with the pairs of a smaller one.
        """
        generator = torch.Generator().manual_seed(seed)
        pairs = [self.prompt(i, generator) for i in range(n)]
        return ContrastBatch.from_tokens(
            [pair.clean for pair in pairs],
            [pair.corrupt for pair in pairs],
            [pair.answer for pair in pairs],
            [pair.foil for pair in pairs],
            marks={name: [pair.marks[name] for pair in pairs] for name in pairs[0].marks},
            distractors=[[token for token in self.candidates if token not in {pair.answer, pair.foil}] for pair in pairs],
        )


def draw(generator: torch.Generator, total: int, count: int) -> list[int]:
    """``count`` different numbers below ``total``."""
    numbers: list[int] = torch.randperm(total, generator=generator)[:count].tolist()
    return numbers


def edges(names: Sequence[str]) -> frozenset[Edge]:
    """Edges by their names, such as ``"a0.h1->a1.kv0<k>"``."""
    return frozenset(map(parse_edge, names))
