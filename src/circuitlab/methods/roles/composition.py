"""Heads that read what an earlier head writes: Q-, K- and V-composition, from the weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from circuitlab.execute.random_frames import bases_for
from circuitlab.methods.roles.contract import RoleKind, measured
from circuitlab.methods.roles.permutation import draws_for, scores_from_weights

if TYPE_CHECKING:
    from circuitlab.execute.composition import Port
    from circuitlab.model.protocol import Model
    from circuitlab.scores.role_scores import RoleScores

__all__ = ["KComposition", "QComposition", "VComposition"]

_ESTIMAND = "strongest ||W_OV W_{}|| / (||W_OV|| ||W_{}||) with the W_OV of an earlier head, minus what random matrices give"


@dataclass(frozen=True)
class QComposition:
    """How much of what a head's queries read the earlier head that suits it best writes (Elhage et al. 2021).

    The composition of random matrices, ``d_model ** -0.5``, is subtracted. Norms of the family are folded into the matrices; rotary
    positions are left out, so that queries and keys meet as at the same position. What stands between the two heads (MLPs, other heads)
    is left out, too. Heads of layer 0 have nothing to compose with and get 0. The whole matrix of writers and readers is
    `circuitlab.execute.composition.composition_scores`.

    Parameters
    ----------
    seed : int
        Of the random rotations.

    Notes
    -----
    The null keeps every matrix's singular values and turns the reading side at random, and takes the strongest of as many writers. A
    head of few dimensions meets another by accident more often than a Gaussian matrix does, and is held to that.

    Threshold 0.1, a tenth of the norm beyond random matrices. The paper gives no number; its baseline alone is 0.04 at a width of 600.

    Examples
    --------
    >>> QComposition().seed, KComposition.port
    (0, 'k')
    """

    name: ClassVar[str] = "q_composition"
    estimand: ClassVar[str] = _ESTIMAND.format("QK", "QK")
    units: ClassVar[str] = "share of the norm"
    threshold: ClassVar[float] = 0.1
    null: ClassVar[str] = "random rotations of what the head reads, with the same earlier heads"
    kind: ClassVar[RoleKind] = "weights"
    needs: ClassVar[tuple[str, ...]] = ("decoder", "unedited")
    cost: ClassVar[str] = "weights alone"
    cite: ClassVar[tuple[str, ...]] = ("elhage2021",)
    port: ClassVar[Port] = "q"

    seed: int = 0

    def work(self, model: Model) -> float:
        """Multiplications: writers and readers of all pairs of layers, and writers and random bases."""
        spec = model.spec
        readers = spec.n_heads if self.port == "q" else spec.n_kv_heads
        turned = bases_for(spec.d_model, draws_for(spec.n_layers * readers)) * spec.d_model
        return float(spec.n_layers * spec.n_heads * spec.d_head * spec.d_model * (spec.n_layers / 2 * readers * spec.d_head + turned))

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every query head, or every key/value head together with its group."""
        from circuitlab.execute.composition import composition_scores, rotated_strongest, strongest  # noqa: PLC0415 - loads torch

        value = strongest(composition_scores(model, self.port), model.spec.d_model)
        null = rotated_strongest(model, self.port, draws_for(value.size), self.seed)
        return scores_from_weights(self, model, value, null, per="head" if self.port == "q" else "kv_head")


@dataclass(frozen=True)
class KComposition(QComposition):
    """How much of what a key head reads the earlier head that suits it best writes (Elhage et al. 2021).

    As `QComposition`, for keys, with the queries of all query heads that share them. What an induction head needs of its weights.

    Examples
    --------
    >>> KComposition().port
    'k'
    """

    name: ClassVar[str] = "k_composition"
    port: ClassVar[Port] = "k"


@dataclass(frozen=True)
class VComposition(QComposition):
    """How much of what a value head reads the earlier head that suits it best writes (Elhage et al. 2021).

    As `QComposition`, for values, with the output matrices of all query heads that share them: the two heads together are a virtual head.

    Examples
    --------
    >>> VComposition().port
    'v'
    """

    name: ClassVar[str] = "v_composition"
    estimand: ClassVar[str] = _ESTIMAND.format("OV", "OV")
    port: ClassVar[Port] = "v"
