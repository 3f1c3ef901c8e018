"""Heads that turn one side of a relation into the other, such as a country into its capital, or write against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError, TokenizationError
from circuitlab.execute.single_tokens import Word, single_token
from circuitlab.methods.roles.contract import RoleKind, measured
from circuitlab.methods.roles.permutation import permutation_null, scores_from_weights, share_of_hits
from circuitlab.methods.roles.top_tokens import written_among_top
from circuitlab.tasks.relations import relation_pairs

if TYPE_CHECKING:
    from circuitlab.execute.effective_ov import Reads
    from circuitlab.model.protocol import Model
    from circuitlab.scores.role_scores import RoleScores

__all__ = ["NegativeRelation", "Relation"]

_FEWEST = 8


@dataclass(frozen=True)
class Relation:
    """Share of a relation's pairs whose target a head writes among its top tokens when it attends to the source (Elhelo and Geva 2024).

    The static score of MAPS: the effective OV circuit reads what the first MLP makes of the source (layer 0: the source itself), and the
    whole vocabulary is ranked. Words are taken with a leading space; pairs of which a side takes several tokens are left out.

    Parameters
    ----------
    relation : str
        A task whose prompts are drawn from a table: its first column is the source, the column of its answers the target. See
        `circuitlab.tasks.relations.list_relations`.
    top : int
        How many tokens count as written most. The authors' code takes 10, and 1 to 3 for copying.
    pairs : tuple of pairs of str or int, optional
        Pairs of one's own in place of a task's, as words exactly as they stand in a prompt (``" hot"``, ``" cold"``) or token ids.
    reads : {"mlp0", "mlp0_unnormed", "stream", "embedding"}
        What heads after layer 0 are given of a source; see `circuitlab.execute.effective_ov.READS`.
    seed : int
        Of the permutations.

    Notes
    -----
    Several sources may have one target (a continent): a head that always writes the most frequent target scores as much with permuted
    targets, and does not earn the role.

    Threshold 0.15: hardly any head writes more than a few pairs of a relation, and a random one writes 10 tokens in tens of thousands, so
    that one pair in seven is far beyond chance and still names few heads.

    Examples
    --------
    >>> Relation(relation="country_language").top
    10
    """

    name: ClassVar[str] = "relation"
    estimand: ClassVar[str] = "share of pairs whose target is among the top tokens that the head writes when it attends to the source alone"
    units: ClassVar[str] = "share of pairs"
    within: ClassVar[tuple[float, float]] = (0.0, 1.0)
    threshold: ClassVar[float] = 0.15
    null: ClassVar[str] = "targets permuted among the sources"
    kind: ClassVar[RoleKind] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("token_vectors", "unedited")
    cost: ClassVar[str] = "weights alone"
    cite: ClassVar[tuple[str, ...]] = ("elhelo2024",)
    sign: ClassVar[int] = 1

    relation: str = "capitals"
    top: int = 10
    pairs: tuple[tuple[Word, Word], ...] = ()
    reads: Reads = "mlp0"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a top that holds nothing, and pairs that are none."""
        if self.top < 1 or any(len(pair) != 2 for pair in self.pairs):  # noqa: PLR2004 - source and target
            what = f"top={self.top} with {len(self.pairs)} pairs of one's own cannot be used."
            raise BadParameterError(what, "Use a top of 1 or more, and pairs of two words.")

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `TokenizationError` where too few pairs are single tokens."""
        pairs = self.inputs(model)
        sources, targets = ([pair[side] for pair in pairs] for side in (0, 1))
        hits = written_among_top(model, sources, targets, self)
        null = permutation_null(hits, np.zeros(len(pairs), dtype=int), self.seed)
        return scores_from_weights(self, model, share_of_hits(hits), null, tokens=pairs)

    def work(self, model: Model) -> float:
        """Multiplications: what each head writes for each source, times the unembedding."""
        spec, pairs = model.spec, self.pairs or relation_pairs(self.relation)
        return float(spec.n_layers * spec.n_heads * len(pairs) * spec.d_model * spec.d_vocab)

    def inputs(self, model: Model) -> list[tuple[int, int]]:
        """The pairs as tokens, source and target."""
        words = self.pairs or tuple((f" {source}", f" {target}") for source, target in relation_pairs(self.relation))
        tokens = [(single_token(model, source), single_token(model, target)) for source, target in words]
        pairs = [(source, target) for source, target in tokens if source is not None and target is not None]
        if len(pairs) < _FEWEST:
            name = "those given" if self.pairs else self.relation
            what = f"{len(pairs)} of {len(words)} pairs of {name} are single tokens of {model.spec.name}; permuting takes {_FEWEST}."
            raise TokenizationError(what, "Use another relation, or give pairs=.")
        return list(dict.fromkeys(pairs))


@dataclass(frozen=True)
class NegativeRelation(Relation):
    """Share of a relation's pairs that a head writes against: the target is among the tokens that it lowers most (Elhelo and Geva 2024).

    As `Relation`; the paper's suppression score.

    Notes
    -----
    Threshold 0.15, as for `Relation`.

    Examples
    --------
    >>> NegativeRelation().relation
    'capitals'
    """

    name: ClassVar[str] = "negative_relation"
    estimand: ClassVar[str] = "share of pairs whose target is among the tokens the head lowers most when it attends to the source alone"
    sign: ClassVar[int] = -1
