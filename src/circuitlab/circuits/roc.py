"""How well scores separate the elements of a given circuit from the others: the ROC curve and its area. numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitlab.circuits.select import Ranking, mean_of, ranked
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.scores.parts import PARTS

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.scores.edge_scores import EdgeScores
    from circuitlab.scores.head_scores import HeadScores

__all__ = ["RocCurve", "roc_against", "roc_of_edges", "roc_of_values"]


@dataclass(frozen=True, eq=False)
class RocCurve:
    """True- and false-positive rates for decreasing thresholds.

    Parameters
    ----------
    false_positive, true_positive : ndarray, shape (threshold + 1,)
        Rates, from (0, 0) to (1, 1).
    thresholds : ndarray, shape (threshold,)
        The distinct values, decreasing: elements at or above a threshold count as positive.
    auroc : float
        Area under the curve: the probability that an element of the circuit ranks above one outside it, with ties counted half.
    n_in, n_out : int
        Number of elements inside and outside the circuit.
    """

    false_positive: np.ndarray
    true_positive: np.ndarray
    thresholds: np.ndarray
    auroc: float
    n_in: int
    n_out: int


def roc_of_values(values: np.ndarray, truth: np.ndarray) -> RocCurve:
    """ROC curve of values that should be larger where ``truth`` is true.

    Parameters
    ----------
    values : ndarray, shape (element,)
        One value per element.
    truth : ndarray of bool, shape (element,)
        Whether an element is in the circuit.

    Raises
    ------
    BadParameterError
        If the shapes differ, or all or none of the elements are in the circuit, so that there is nothing to separate.
    """
    values, truth = np.asarray(values, dtype=np.float64).ravel(), np.asarray(truth, dtype=bool).ravel()
    n_in = int(truth.sum())
    n_out = truth.size - n_in
    if values.shape != truth.shape or not n_in or not n_out:
        what = f"A ROC of {values.size} values against {truth.size} labels, {n_in} of them true, does not exist."
        raise BadParameterError(what, "Give a circuit with some of the scored elements, but not all.")
    thresholds = np.unique(values)[::-1]
    reached = values[None] >= thresholds[:, None]
    true_positive = np.concatenate([[0.0], (reached & truth).sum(1) / n_in])
    false_positive = np.concatenate([[0.0], (reached & ~truth).sum(1) / n_out])
    area = float(np.trapezoid(true_positive, false_positive))
    return RocCurve(false_positive, true_positive, thresholds, area, n_in, n_out)


def roc_against(
    scores: HeadScores,
    circuit: Circuit,
    *,
    part: str = "heads",
    by: Ranking = "absolute",
    mark: str | None = None,
) -> RocCurve:
    """ROC curve of the mean scores of one part against a given circuit, such as a published one.

    Parameters
    ----------
    scores : HeadScores
        Scores from any method.
    circuit : Circuit
        The true circuit; its nodes of other parts are ignored.
    part, mark : str
        The part, and the mark if scores are resolved by mark.
    by : {"absolute", "positive", "negative"}
        What counts as high: magnitude, most helpful or most harmful.

    Raises
    ------
    IncompatibleError
        If the circuit belongs to a model of another shape.
    BadParameterError
        If all or none of the part's nodes are in the circuit, or scores are resolved by mark and no mark is given.

    References
    ----------
    Conmy et al. (2023), Towards Automated Circuit Discovery for Mechanistic Interpretability, arXiv:2304.14997.
    """
    if scores.universe != circuit.universe:
        what = f"Scores of {scores.universe} cannot be compared with a circuit of {circuit.universe}."
        raise IncompatibleError(what, "Use the circuit of the scored model.")
    mean = mean_of(scores, part, mark)
    truth = [PARTS[part].node(*map(int, index)) in circuit.nodes for index in np.ndindex(mean.shape)]
    return roc_of_values(ranked(mean, by), np.array(truth))


def roc_of_edges(scores: EdgeScores, circuit: Circuit, *, by: Ranking = "absolute") -> RocCurve:
    """ROC curve of mean edge scores against the edges of a given circuit, over all edges of the model.

    Raises
    ------
    BadParameterError
        If the circuit has nodes alone, or all or none of the model's edges.
    """
    if circuit.edges is None:
        what = "The circuit has nodes alone."
        raise BadParameterError(what, "Give a circuit with edges, or use roc_against on node scores.")
    truth = np.zeros(scores.layout.shape, dtype=bool)
    for edge in circuit.edges:
        truth[scores.layout.index(edge)] = True
    return roc_of_values(ranked(scores.mean()[scores.layout.edge_indices], by), truth[scores.layout.edge_indices])
