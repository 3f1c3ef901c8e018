"""Comparison of tasks by running their circuits on a model: transfer, double dissociation and ablation sensitivity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from circuitlab.comparison.dissociation import DissociationTable, dissociation_table
from circuitlab.comparison.sensitivity import SensitivityCard, sensitivity_card
from circuitlab.comparison.transfer import TransferTable, transfer_table
from circuitlab.core.errors import BadParameterError, IncompatibleError
from circuitlab.core.progress import step
from circuitlab.evaluation import Ablation, NodeCircuitRunner
from circuitlab.evaluation.cached_runs import CachedRuns, runs_id
from circuitlab.metrics import get_metric
from circuitlab.workflows.prompts import Prompts, held_out

if TYPE_CHECKING:
    from circuitlab.circuits.circuit import Circuit
    from circuitlab.model.protocol import Model
    from circuitlab.scores.head_scores import HeadScores
    from circuitlab.store import Cache

__all__ = ["FunctionalComparison", "FunctionalResult"]


@dataclass(frozen=True, eq=False)
class FunctionalResult:
    """Transfer table and double dissociations from the same runs."""

    transfer: TransferTable
    dissociation: DissociationTable

    def to_dict(self) -> dict[str, Any]:
        """The value of ``"transfer"`` in ``circuitlab compare --json``: the transfer table, which contains ``"dissociation"``."""
        return self.transfer.to_dict() | {"dissociation": self.dissociation.to_dict()}


@dataclass(frozen=True)
class FunctionalComparison:
    """Runs circuits of heads across tasks, with every other head ablated and MLPs kept.

    This class needs a task's pairs, `NodeCircuitRunner` and a store; the statistics are in `circuitlab.comparison`, which does not depend
    on models.

    Parameters
    ----------
    pairs : int
        Number of pairs of each task that circuits are run on: those after the scored ones in the task's stream.
    ablation : {"resample", "zero", "mean", "mean_by_mark", "mean_by_template"}
        The value of heads outside a circuit.
    n_random : int
        Number of random circuits for each size.
    seed : int
        Seed of random circuits, bootstraps and permutations.
    prompts : mapping of str to str, Path, Task or ContrastBatch
        The source of a task's pairs, for tasks whose id is not the name of a task file.

    Notes
    -----
    Cost: about ``5 x tasks + n_random`` runs per task and pair for transfer and dissociation together. Runs are shared, and stored in the
    store's ``circuits`` folder by model, prompts and circuit, so that more tasks or an interrupted comparison continue from there.
    """

    pairs: int = 16
    ablation: Ablation = "resample"
    n_random: int = 50
    seed: int = 0
    prompts: Mapping[str, Prompts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.n_random < 0:
            what = f"pairs={self.pairs}, n_random={self.n_random} cannot be run."
            raise BadParameterError(what, "Use at least 1 pair, and 0 random circuits or more.")

    def __call__(
        self, model: Model, scores: Mapping[str, HeadScores], circuits: Mapping[str, Circuit], store: Cache | None = None
    ) -> FunctionalResult:
        """Transfer and dissociation of several tasks.

        Parameters
        ----------
        model : Model
            The model that was scored.
        scores : mapping of str to HeadScores
            The scores that each circuit was selected from; they determine the pairs that are not used and the metric.
        circuits : mapping of str to Circuit
            Each task's circuit of heads.
        store : Cache, optional
            Cache of the runs.
        """
        runners, prompts = self._runners(model, scores, self.ablation, store)
        conventions = self._conventions(runners, prompts)
        transfer = transfer_table(runners, circuits, n_random=self.n_random, seed=self.seed, conventions=conventions)
        return FunctionalResult(transfer, dissociation_table(runners, circuits, seed=self.seed, conventions=conventions))

    def sensitivity(
        self,
        model: Model,
        scores: Mapping[str, HeadScores],
        circuits: Mapping[str, Circuit],
        store: Cache | None = None,
        ablations: tuple[Ablation, ...] = ("resample", "mean", "mean_by_mark", "zero"),
    ) -> SensitivityCard:
        """Every task's own circuit under several ablations. Ablations other than resampling run whole prompts."""
        runners: dict[str, dict[str, CachedRuns]] = {ablation: self._runners(model, scores, ablation, store)[0] for ablation in ablations}
        return sensitivity_card(runners, circuits, n_random=self.n_random, seed=self.seed)

    def _runners(
        self, model: Model, scores: Mapping[str, HeadScores], ablation: Ablation, store: Cache | None
    ) -> tuple[dict[str, CachedRuns], dict[str, str]]:
        runners, prompts, overall = {}, {}, _Overall(2 * len(scores))
        for name, task_scores in scores.items():
            provenance = task_scores.provenance
            task_scores.require_pairs("task whose circuit could be run")
            if provenance.model.identity() != model.spec.identity():
                what = f"The scores of {name} are of other weights than {model.spec.name}."
                raise IncompatibleError(what, "Use the model that was scored.")
            batch, prompts[name] = held_out(model, self.prompts.get(name, provenance.task.id), provenance.task, self.pairs)
            runs = NodeCircuitRunner(model, batch, get_metric(provenance.metric), ("heads",), ablation)
            checkpoint = None if store is None else store.checkpoint(runs_id(runs), "circuits")
            runners[name] = CachedRuns(runs, checkpoint, report=overall)
        return runners, prompts

    def _conventions(self, runners: Mapping[str, CachedRuns], prompts: Mapping[str, str]) -> dict[str, str]:
        conventions = next(iter(runners.values())).runs.conventions
        metrics = {name: f"{runs.runs.metric.name}" for name, runs in runners.items() if isinstance(runs.runs, NodeCircuitRunner)}
        return (
            conventions
            | {f"prompts of {name}": which for name, which in prompts.items()}
            | {f"metric of {k}": v for k, v in metrics.items()}
        )


@dataclass(eq=False)
class _Overall:
    """Progress of several calls as a single progress; all calls have the same weight."""

    calls: int
    _done: int = field(default=0)

    def __call__(self, done: int, total: int) -> None:
        step(self._done * total + done, max(self.calls, self._done + 1) * total)
        self._done += done == total
