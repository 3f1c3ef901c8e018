"""SAE-code overlap: the number of discrete codes that a head has on clean prompts and on no corrupt prompt."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec
import numpy as np

from circuitlab.core.errors import BadParameterError, ModelError, UnknownNameError
from circuitlab.core.progress import step
from circuitlab.execute.contract import fields_as_tuples, provenance_of
from circuitlab.execute.needs import prepared
from circuitlab.execute.reference import answer_logits, with_reference
from circuitlab.methods.sae.counts import edge_counts, listed_edges, pair_codes, pair_shares, unique_counts
from circuitlab.methods.sae.learning import MEAN, Plan, learn_codes
from circuitlab.methods.sae.training import Training
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from circuitlab.core.nodes import Node
    from circuitlab.execute.cost import RunSize
    from circuitlab.methods.sae.dictionary import Dictionary
    from circuitlab.methods.sae.sample import CodeSample
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["CodeOverlap"]

_PARTS = ("heads", "mlps")


@dataclass(frozen=True)
class CodeOverlap:
    """Codes unique to clean prompts, by a small sparse autoencoder over the outputs of all heads (O'Neill and Bui 2024).

    Clean prompts are positives, corrupt prompts negatives. Every head's contribution to the residual stream, averaged over positions, is
    encoded by one sparse autoencoder trained on a few prompts; the code of a head on a prompt is its most active unit. With P the set of
    codes that a head has on positives and N on negatives, the published score of the head is ``|P - N|``.

    The score of a pair is its share of that number, times the number of pairs: a code that only positives have counts 1, split evenly
    among the pairs whose clean prompt has it (the Shapley value of the pair). The mean over pairs, `HeadScores.mean`, is therefore the
    published score, and the pairs show which prompts it comes from. A share depends on the other pairs of the batch, so the interval of
    the mean describes unequal shares and not the variation over other prompts: test significance with ``sample(...).p_values()``.

    Scores are non-negative numbers of codes. They have no sign and do not scale with the logits; they show where clean and corrupt prompts
    look different, not what helps the answer.

    Parameters
    ----------
    level : {"nodes", "edges"}
        ``"nodes"`` is the score above. ``"edges"`` counts pairs of codes that two nodes have together on positives only, lists the
        strongest node pairs, and scores a node by its number of occurrences in the first (heads per layer)^2 / 2 entries of that list, as
        published (except that edges which tie for the last places share them).
    normalise : bool
        Whether to divide by the number of codes (pairs of codes) on both sides.
    softmax : {"none", "nodes", "across_layer"}
        Softmax of the scores over all nodes, or within each layer (which changes the ranking between layers).
    parts : tuple of str
        ``("heads",)``, or ``("heads", "mlps")`` with the MLP as one more node of each layer.
    positions : tuple of str
        ``("mean",)`` for the mean over positions; marks for one score per marked position (with one autoencoder for all marks).
    examples : int
        Prompts of both sides that the autoencoder is trained on, drawn at random.
    trials : int
        Number of autoencoders, each with its own examples and initial weights; scores are means over them (10 in the paper).
    seed : int
        Seed of examples and weights.
    size, sparsity, rate, epochs, scale, decoder
        Settings of the training; see `circuitlab.methods.sae.Training`.

    Notes
    -----
    Two forward passes per pair, then training: about 1.6 Tflop per trial on SmolLM2-135M. ``provenance.measured`` holds the seconds of
    each stage, the variance that the autoencoders explain, and the agreement of trials (mean Spearman correlation): rankings of different
    trials can differ a lot. A head whose code varies with the names on positives only scores high for the wrong reason.

    References
    ----------
    O'Neill and Bui (2024), Sparse Autoencoders Enable Scalable and Reliable Circuit Identification in Language Models, arXiv:2405.12522.
    Shapley (1953), A value for n-person games.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")
    >>> scores = cl.score(planted.model, planted.batch(12), CodeOverlap(trials=1))
    >>> scores.mean("heads").shape, bool((scores.mean("heads") >= 0).all())
    ((2, 4), True)
    """

    name: ClassVar[str] = "code_overlap"
    estimand: ClassVar[str] = "number of discrete codes of a node's output that occur on clean prompts and on no corrupt prompt"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("hooks", "writes")
    cost: ClassVar[str] = "2 forward passes per pair, and training a small autoencoder per trial"
    cite: ClassVar[tuple[str, ...]] = ("oneill2024",)
    causal: ClassVar[bool] = False
    pooled: ClassVar[bool] = True
    in_metric_units: ClassVar[bool] = False

    level: Literal["nodes", "edges"] = "nodes"
    normalise: bool = False
    softmax: Literal["none", "nodes", "across_layer"] = "none"
    parts: tuple[str, ...] = ("heads",)
    positions: tuple[str, ...] = (MEAN,)
    examples: int = 10
    trials: int = 5
    seed: int = 0
    size: int = 200
    sparsity: float = 0.02
    rate: float = 1e-3
    epochs: int = 500
    scale: Literal["raw", "rms"] = "raw"
    decoder: Literal["free", "unit"] = "free"

    def __post_init__(self) -> None:
        fields_as_tuples(self)
        for kind, value, choices in (
            ("level", self.level, ["nodes", "edges"]),
            ("softmax", self.softmax, ["none", "nodes", "across_layer"]),
            *(("part", part, _PARTS) for part in self.parts),
        ):
            if value not in choices:
                raise UnknownNameError(kind, value, choices)
        if "heads" not in self.parts or (MEAN in self.positions and len(self.positions) > 1):
            what = f"parts={self.parts}, positions={self.positions} cannot be scored."
            raise BadParameterError(what, "Name heads among the parts, and either ('mean',) or marks of the task.")
        self.plan  # noqa: B018 - refuses its own bad values

    @property
    def contrastive(self) -> bool:
        """True without a softmax: equal prompts have equal codes, but a softmax of zeros is not zero."""
        return self.softmax == "none"

    @property
    def plan(self) -> Plan:
        """The outputs that are encoded, and the training of dictionaries."""
        training = Training(self.size, self.sparsity, self.rate, self.epochs, self.scale, self.decoder)
        return Plan(self.positions, "mlps" in self.parts, self.examples, self.trials, self.seed, training)

    @property
    def units(self) -> str:
        """The unit of the scores."""
        if self.softmax != "none":
            return "share of the softmax"
        counted = "codes" if self.level == "nodes" else "listed edges"
        return "share of codes" if self.normalise and self.level == "nodes" else counted

    def passes(self, size: RunSize) -> float:
        """Forward passes: both runs of every pair, twice, and training, which takes ten products of rows x size x d_model per epoch."""
        rows = self.examples * size.nodes(self.parts)
        training = 10.0 * self.trials * self.epochs * rows * self.size * size.d_model
        forward = 24.0 * size.n_layers * size.d_model**2 * size.length
        return 4.0 * size.pairs + training / forward

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch, metric: Metric) -> HeadScores:
        """Score every node; parts have shape (pair[, mark], layer[, head]) and count codes. ``total`` sums a pair's scores."""
        batch = with_reference(model, metric, batch)
        if batch.one_length and len(lengths := set((batch.end + 1).tolist())) > 1:
            what = f"Rotary angles of {model.spec.name} depend on the length of the prompt, and prompts have {sorted(lengths)[:5]} tokens."
            raise ModelError(what, "Autoencoders learn from all prompts together: use prompts of one length.")
        clean, corrupt = (
            metric(answer_logits(model, batch, tokens).double(), batch).cpu().numpy() for tokens in (batch.clean, batch.corrupt)
        )
        sample, seconds = learn_codes(model, batch, self.plan)
        step(1, 2)
        started = time.perf_counter()
        columns = model.spec.n_heads + ("mlps" in self.parts)
        values = self.shares(sample, columns).reshape(batch.n_pairs, len(self.positions), model.spec.n_layers, columns)
        measured = seconds | {"explained_variance": float(np.mean(sample.explained)), "scoring_seconds": time.perf_counter() - started}
        if not np.isnan(agreement := sample.agreement()):
            measured["trial_agreement"] = agreement
        marks = None if self.positions == (MEAN,) else self.positions
        if marks is None:
            values = values[:, 0]
        arrays = {"heads": values[..., : model.spec.n_heads], "clean": clean, "corrupt": corrupt}
        if "mlps" in self.parts:
            arrays["mlps"] = values[..., -1]
        arrays["total"] = values.reshape(batch.n_pairs, -1).sum(1)
        about = msgspec.structs.replace(provenance_of(self, model, batch, metric), units=self.units, measured=measured)
        step(2, 2)
        return HeadScores.build(arrays, about, marks)

    def sample(self, model: Model, batch: ContrastBatch, dictionaries: Sequence[Dictionary] = ()) -> CodeSample:
        """The codes, for inspection, p-values, edges and spread; ``dictionaries`` are used instead of trained ones if given."""
        return learn_codes(model, batch, self.plan, dictionaries)[0]

    def aurocs_by_examples(self, model: Model, batch: ContrastBatch, circuit: Collection[Node], sizes: Sequence[int]) -> np.ndarray:
        """Area under the ROC curve against a known circuit by number of training examples, shape (size, trial).

        Node scores are as published; `circuitlab.figures.roc.auroc_by_examples` plots the result. It trains ``trials`` dictionaries for
        each size.
        """
        return np.stack([replace(self, examples=size).sample(model, batch).aurocs(circuit, normalise=self.normalise) for size in sizes])

    def shares(self, sample: CodeSample, columns: int) -> np.ndarray:
        """Scores of every pair, shape (pair, place, node), averaged over trials; each layer has ``columns`` nodes."""
        trials = zip(sample.positive, sample.negative, strict=True)
        split = self._split_nodes if self.level == "nodes" else self._split_edges
        return np.mean(
            [
                np.stack([self._soften(*split(ours[:, i], theirs[:, i], columns), columns) for i in range(len(sample.places))], axis=1)
                for ours, theirs in trials
            ],
            axis=0,
        )

    def _split_nodes(self, ours: np.ndarray, theirs: np.ndarray, _columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Published node scores, (node,), and their split over pairs, whose columns sum to 1, or to 0 without a unique code."""
        shares = pair_shares(ours, theirs)
        return unique_counts(ours, theirs, normalise=self.normalise), shares / np.maximum(shares.sum(0), 1e-12)

    def _split_edges(self, ours: np.ndarray, theirs: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Occurrences of every node in the list of edges, (node,), and their split over pairs by the shares in each listed edge."""
        listed = np.triu(listed_edges(edge_counts(ours, theirs, normalise=self.normalise), columns**2 // 2))
        edges = np.argwhere(listed > 0)
        shares = pair_shares(pair_codes(ours, edges), pair_codes(theirs, edges))
        shares *= 2 * listed[tuple(edges.T)] / shares.sum(0)  # each edge is listed in both directions
        parts = np.zeros(ours.shape)
        for end in edges.T:
            np.add.at(parts.T, end, shares.T)
        scores = parts.sum(0)
        return scores, parts / np.maximum(scores, 1e-12)

    def _soften(self, scores: np.ndarray, split: np.ndarray, columns: int) -> np.ndarray:
        """Scores after any softmax, split over pairs such that the mean over pairs is the score."""
        from scipy.special import softmax  # noqa: PLC0415 - scipy is slow to import

        final = scores
        if self.softmax != "none":
            final = softmax(scores.reshape(-1, columns), axis=1 if self.softmax == "across_layer" else None).ravel()
            split = np.where(scores > 0, split, 1.0 / len(split))
        return final * split * len(split)
