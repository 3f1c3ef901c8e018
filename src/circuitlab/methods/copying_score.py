"""Copying scores: whether a head writes for or against the token that it reads, from weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from circuitlab.core.errors import BadParameterError
from circuitlab.execute.contract import provenance_of
from circuitlab.execute.needs import prepared
from circuitlab.scores.head_scores import HeadScores

if TYPE_CHECKING:
    from circuitlab.execute.cost import RunSize
    from circuitlab.metrics import Metric
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["CopyingScore"]

_EMBEDDINGS = ("mlp0", "tokens")


@dataclass(frozen=True)
class CopyingScore:
    r"""Copying score of every head, from weights alone (Elhage et al. 2021).

    A head's OV circuit says which logits it adds for every token that it may attend to: :math:`M = E\,W_V W_O\,U^\top`, a matrix of
    vocabulary by vocabulary. Its eigenvalues are positive where tokens raise their own logits, and negative where they lower them; the
    score is :math:`\sum_i \lambda_i / \sum_i |\lambda_i|`, from -1 (as negative movers) to 1 (as movers and induction heads). A head
    without eigenvalues, such as a dead one, scores 0.

    Parameters
    ----------
    embedding : {"mlp0", "tokens"}
        What stands for a token: its embedding with what the first MLP makes of it (default), as layers from 1 on read it, or its embedding
        alone. Heads of layer 0 read the embedding in either case. Attention of layer 0 is left out.

    Notes
    -----
    Exact in the head's norm (every token has its own scale), its query group's shared values, and Gemma's post-norms and the final norm up
    to their scales, which are left out. Left out, too, are biases, which are written whatever token is read. Every token of the vocabulary
    counts alike, also those that were never trained. No prompt is run: scores have no pair axis and no interval, and are the same for every
    task. A copying score says what a head would write if it attended to one token; not that it does.

    `circuitlab.methods.roles.copying.CopyingEigenvalues` is the same number on a sample of tokens, with what random rotations give and a
    verdict; `circuitlab.methods.roles.copying.Copying` counts instead for how many words the head's top tokens hold the word itself.

    Cost: every token once through the first MLP, and a product of ``d_model`` by ``d_model`` for each; the vocabulary is never squared.

    References
    ----------
    Elhage et al. (2021), A Mathematical Framework for Transformer Circuits. Wang et al. (2022), arXiv:2211.00593.

    Examples
    --------
    >>> import circuitlab as cl
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("copy-gqa")  # a head that copies, and one that works against it
    >>> scores = cl.score(planted.model, method=CopyingScore())
    >>> [f"{node} {scores[node].mean:+.2f}" for node in ("a1.h1", "a1.h2")]
    ['a1.h1 +1.00', 'a1.h2 -1.00']
    """

    name: ClassVar[str] = "copying_score"
    estimand: ClassVar[str] = "whether a head raises (1) or lowers (-1) the logits of the tokens that it reads, by its OV circuit"
    additive: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ("decoder", "writes", "token_vectors", "unedited")
    cost: ClassVar[str] = "no prompts: the vocabulary once through the first MLP"
    cite: ClassVar[tuple[str, ...]] = ("elhage2021", "wang2022")
    weights_only: ClassVar[bool] = True
    in_metric_units: ClassVar[bool] = False
    units: ClassVar[str] = "share of eigenvalue magnitude"

    embedding: Literal["mlp0", "tokens"] = "mlp0"

    def __post_init__(self) -> None:
        if self.embedding not in _EMBEDDINGS:
            what = f"embedding={self.embedding!r} is none of {_EMBEDDINGS}."
            raise BadParameterError(what, "Use 'mlp0' or 'tokens'.")

    @property
    def contrastive(self) -> bool:
        """Never: there are no prompts to contrast."""
        return False

    def passes(self, size: RunSize) -> float:  # noqa: ARG002 - no prompt is run
        """None."""
        return 0.0

    @prepared
    def __call__(self, model: Model, batch: ContrastBatch | None = None, metric: Metric | None = None) -> HeadScores:
        """Score every head, (layer, head); batch and metric have no part in it and may be left out."""
        from circuitlab.execute.copying import copying_scores  # noqa: PLC0415 - torch

        heads = copying_scores(model, after_mlp=self.embedding == "mlp0")
        return HeadScores.build({"heads": heads}, provenance_of(self, model, batch, metric))
