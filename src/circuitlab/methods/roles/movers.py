"""Roles by path patching on a task: heads that move the answer to the logits, heads that move against it, and what steers the movers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from circuitlab.core.errors import BadParameterError, ModelError
from circuitlab.core.nodes import Head
from circuitlab.core.progress import step
from circuitlab.execute.paths import RunPair
from circuitlab.execute.routes import Route, parse_receiver
from circuitlab.execute.sweeps import batch_by_length
from circuitlab.methods.roles.contract import RoleKind, measured, role_provenance
from circuitlab.metrics import LogitDiff
from circuitlab.model.prepare import prepare_batch
from circuitlab.scores.intervals import mean_interval
from circuitlab.scores.role_scores import RoleScores

if TYPE_CHECKING:
    from circuitlab.model.batch import ContrastBatch
    from circuitlab.model.protocol import Model

__all__ = ["Mover", "NegativeMover", "SInhibition"]

_TOGETHER = 8
"""Pairs in one pass."""


@dataclass(frozen=True)
class _OnTask:
    """What roles on a task share: its pairs, identified by the tokens that are run, and effects as shares of the task's gap."""

    units: ClassVar[str] = "share of the gap"
    threshold: ClassVar[float] = 0.1
    null: ClassVar[str] = "no effect: 0"
    kind: ClassVar[RoleKind] = "behaviour"
    needs: ClassVar[tuple[str, ...]] = ("gradients", "heads_apart", "tokenizer")
    cost: ClassVar[str] = "32 forward passes, and pairs x heads x layers / 2 MLP rows"
    by_default: ClassVar[bool] = False
    cite: ClassVar[tuple[str, ...]] = ("wang2022",)

    task: str = "ioi"
    n: int = 16
    seed: int = 0
    batch: ContrastBatch | None = field(default=None, repr=False, metadata={"identity": False})

    def __post_init__(self) -> None:
        pairs = self.n if self.batch is None else self.batch.n_pairs
        if pairs < 2:  # noqa: PLR2004 - an interval
            raise BadParameterError(f"{pairs} pair has no interval.", "Use two pairs or more, such as 16.")
        if self.batch is not None:  # token ids need no tokenizer
            object.__setattr__(self, "needs", tuple(need for need in self.needs if need != "tokenizer"))

    def pairs(self, model: Model) -> ContrastBatch:
        """Pairs of one's own, or the task's first ones."""
        return self.batch or prepare_batch(model, self.task, self.n, seed=self.seed)

    def inputs(self, model: Model) -> dict[str, Any]:
        """The token ids that are run, and the answers that are read."""
        batch = self.pairs(model)
        return {name: getattr(batch, name).tolist() for name in ("clean", "corrupt", "end", "answers", "foils")}

    def effects(self, model: Model, receivers: Sequence[str], mark: str | None) -> np.ndarray:
        """Effect of every head along its direct path to the receivers, as a share of the mean gap, (pair, layer, head).

        Raises
        ------
        ModelError
            If the model does not do the task: its preference for the answer, or what the corrupt prompt takes of it, is not clear of 0.
        """
        batch, spec = self.pairs(model), model.spec
        route = Route(tuple(parse_receiver(name) for name in receivers), (), "noising", "recomputed")
        senders = [Head(layer, head) for layer in range(spec.n_layers) for head in range(spec.n_heads)]
        route.check(model, senders)
        effects = np.zeros((batch.n_pairs, spec.n_layers, spec.n_heads))
        clean, corrupt = np.zeros(batch.n_pairs), np.zeros(batch.n_pairs)
        done = 0
        for some in batch_by_length(batch, _TOGETHER, alike=not route.to_logits):
            runs = RunPair.of(model, batch.select(some), LogitDiff(), "noising")
            clean[some], corrupt[some] = runs.clean, runs.corrupt
            effects[some] = runs.effects(route, senders, mark).T.reshape(-1, spec.n_layers, spec.n_heads)
            done += len(some)
            step(done, batch.n_pairs)
        return effects / self._gap(model, clean, corrupt)

    def _gap(self, model: Model, clean: np.ndarray, corrupt: np.ndarray) -> float:
        """The mean gap between clean and corrupt prompts, clear of 0."""
        for name, values in (("the clean logit difference", clean), ("clean minus corrupt logit difference", clean - corrupt)):
            if not (low := float(mean_interval(values).low)) > 0:
                task = self.task if self.batch is None else "of the given pairs"
                what = f"{model.spec.name} does not do the task {task}: {name} is {values.mean():.3g}, its interval begins at {low:.3g}."
                raise ModelError(what, "Measure this role on a task that the model can do: `circuitlab tasks check` tells.")
        return float((clean - corrupt).mean())

    def scores(self: Any, model: Model, values: np.ndarray) -> RoleScores:
        """Values beside a control of 0."""
        return RoleScores(values, role_provenance(self, model, "pairs", self.inputs(model)), np.zeros_like(values))


@dataclass(frozen=True)
class Mover(_OnTask):
    """Direct effect on the logits that helps the answer: name movers and the like (Wang et al. 2022).

    The head's output at the end of the clean prompt is replaced by that of the corrupt one along its path to the logits, with all other
    heads frozen.

    Parameters
    ----------
    task : str
        A task with its default corruption.
    n : int
        Pairs.
    seed : int
        Of the pairs.
    batch : ContrastBatch, optional
        Pairs of one's own in place of a task's.

    Notes
    -----
    The value is the loss of logit difference, as a share of the mean gap between clean and corrupt prompts; positive helps the answer.
    Chance is 0, the effect of a head that says the same in both prompts, so that a head which is merely loud is not told from a mover by
    the test alone; the threshold does that. A tenth of the gap was fixed before any model was measured: it is far above the share of an
    average head, of which even small models have more than a hundred. Where a negative mover takes away, shares add up to more than 1.
    A model that does not do the task has no movers of it, and is refused.

    References
    ----------
    Wang et al. (2022), Interpretability in the Wild, arXiv:2211.00593.

    Examples
    --------
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("names-mha")
    >>> scores = Mover(batch=planted.batch(8))(planted.model)
    >>> np.argwhere(scores.earned()).tolist()  # a2.h0 was planted
    [[2, 0]]
    """

    name: ClassVar[str] = "mover"
    estimand: ClassVar[str] = "loss of the answer's logit difference when the head's direct path to the logits carries the corrupt prompt"

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `ModelError` where the model does not do the task."""
        return self.scores(model, self.effects(model, ["logits"], None))


@dataclass(frozen=True)
class NegativeMover(_OnTask):
    """Direct effect on the logits that hurts the answer: negative name movers and the like (Wang et al. 2022).

    Parameters
    ----------
    task, n, seed, batch
        As for `Mover`.

    Notes
    -----
    The value is that of `Mover` with the opposite sign: positive hurts the answer. The threshold is the same.

    References
    ----------
    Wang et al. (2022), Interpretability in the Wild, arXiv:2211.00593.

    Examples
    --------
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("names-mha")
    >>> scores = NegativeMover(batch=planted.batch(8))(planted.model)
    >>> np.argwhere(scores.earned()).tolist()  # a2.h1 was planted
    [[2, 1]]
    """

    name: ClassVar[str] = "negative_mover"
    estimand: ClassVar[str] = "gain of the answer's logit difference when the head's direct path to the logits carries the corrupt prompt"

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `ModelError` where the model does not do the task."""
        return self.scores(model, -self.effects(model, ["logits"], None))


@dataclass(frozen=True)
class SInhibition(_OnTask):
    """Effect on the answer through the queries of the movers: heads that tell movers where not to look (Wang et al. 2022).

    Parameters
    ----------
    task, n, seed, batch
        As for `Mover`.
    movers : int
        How many of the heads that earn `Mover` on the same pairs are steered, the strongest first.

    Notes
    -----
    The head's output at the end of the prompt is taken from the corrupt prompt on its way to the movers' queries there, with all other
    heads frozen; then everything after those queries is computed again. The value is the loss of logit difference, as a share of the mean
    gap; positive helps the answer. Heads that come after every mover have exactly 0. The threshold is that of `Mover`. Effects of heads
    that reach the queries through other heads are not counted.

    References
    ----------
    Wang et al. (2022), Interpretability in the Wild, arXiv:2211.00593.

    Examples
    --------
    >>> from circuitlab.model.toy import build_planted
    >>> planted = build_planted("names-mha")
    >>> scores = SInhibition(batch=planted.batch(8))(planted.model)
    >>> np.argwhere(scores.earned()).tolist()  # a1.h2 was planted
    [[1, 2]]
    """

    name: ClassVar[str] = "s_inhibition"
    estimand: ClassVar[str] = "loss of the answer's logit difference when the movers' queries read the head's output in the corrupt prompt"
    cost: ClassVar[str] = "that of mover, and pairs x heads runs from the first mover on"

    movers: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.movers < 1:
            raise BadParameterError(f"movers={self.movers} leaves no query to steer.", "Use 1 or more, such as 3.")

    @measured
    def __call__(self, model: Model) -> RoleScores:
        """Measure every head; raises `ModelError` where the model does not do the task, or no head moves its answer."""
        movers = Mover(self.task, self.n, self.seed, self.batch)(model)
        order = np.argsort(-np.where(movers.earned(), movers.value, 0.0), axis=None)[: min(self.movers, int(movers.earned().sum()))]
        if not len(order):
            what = f"No head of {model.spec.name} earns the role of a mover on these pairs, so that there is none to steer."
            raise ModelError(what, "Look at `circuitlab heads roles --roles mover`, or use more pairs.")
        receivers = [f"{Head(*divmod(int(one), model.spec.n_heads))}<q>" for one in order]
        return self.scores(model, self.effects(model, receivers, "END"))
