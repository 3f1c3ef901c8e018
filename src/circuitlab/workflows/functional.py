"""Comparison of tasks by what their circuits do: transfer, double dissociation and ablation sensitivity, run on a model."""

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
    """Transfer matrix and double dissociations of the same runs."""

    transfer: TransferTable
    dissociation: DissociationTable

    def to_dict(self) -> dict[str, Any]:
        """The key ``"transfer"`` of ``circuitlab compare --json``: the transfer table, with ``"dissociation"`` in it."""
        return self.transfer.to_dict() | {"dissociation": self.dissociation.to_dict()}


@dataclass(frozen=True)
class FunctionalComparison:
    """Runs circuits of heads across tasks, every other head ablated (and MLPs kept).

    It stands here, above evaluation, because it needs all of a task's pairs, the running of circuits (`NodeCircuitRunner`), and a store;
    the statistics are in `circuitlab.comparison` and know no model.

    Parameters
    ----------
    pairs : int
        Pairs of each task that circuits are run on: those after the scored ones in the task's stream.
    ablation : {"resample", "zero", "mean", "mean_by_mark", "mean_by_template"}
        What a head outside a circuit is given.
    n_random : int
        Random circuits for each size.
    seed : int
        Of random circuits, bootstraps and permutations.
    prompts : mapping of str to str, Path, Task or ContrastBatch
        Where the pairs of a task come from, for tasks whose id names no task file.

    Notes
    -----
    Cost: about ``5 x tasks + n_random`` runs per task and pair for transfer and dissociation together, shared and kept in the store's
    ``circuits`` folder by model, prompts and circuit: more tasks, or an interrupted comparison, go on from there.
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
            That the scores are of.
        scores : mapping of str to HeadScores
            What each circuit was picked from; says which pairs are spent and which metric is used.
        circuits : mapping of str to Circuit
            Each task's circuit of heads.
        store : Cache, optional
            Where circuits that were run are kept.
        """
        runners, prompts = self._runners(model, scores, self.ablation, store)
        said = self._conventions(runners, prompts)
        transfer = transfer_table(runners, circuits, n_random=self.n_random, seed=self.seed, conventions=said)
        return FunctionalResult(transfer, dissociation_table(runners, circuits, seed=self.seed, conventions=said))

    def sensitivity(
        self,
        model: Model,
        scores: Mapping[str, HeadScores],
        circuits: Mapping[str, Circuit],
        store: Cache | None = None,
        ablations: tuple[Ablation, ...] = ("resample", "mean", "mean_by_mark", "zero"),
    ) -> SensitivityCard:
        """Every task's own circuit under several ablations. Other ablations than resampling run whole prompts."""
        runners: dict[str, dict[str, CachedRuns]] = {ablation: self._runners(model, scores, ablation, store)[0] for ablation in ablations}
        return sensitivity_card(runners, circuits, n_random=self.n_random, seed=self.seed)

    def _runners(
        self, model: Model, scores: Mapping[str, HeadScores], ablation: Ablation, store: Cache | None
    ) -> tuple[dict[str, CachedRuns], dict[str, str]]:
        runners, prompts, overall = {}, {}, _Overall(2 * len(scores))
        for name, one in scores.items():
            where = one.provenance
            one.require_pairs("task whose circuit could be run")
            if where.model.identity() != model.spec.identity():
                what = f"The scores of {name} are of other weights than {model.spec.name}."
                raise IncompatibleError(what, "Give the model that was scored.")
            batch, prompts[name] = held_out(model, self.prompts.get(name, where.task.id), where.task, self.pairs)
            runs = NodeCircuitRunner(model, batch, get_metric(where.metric), ("heads",), ablation)
            checkpoint = None if store is None else store.checkpoint(runs_id(runs), "circuits")
            runners[name] = CachedRuns(runs, checkpoint, report=overall)
        return runners, prompts

    def _conventions(self, runners: Mapping[str, CachedRuns], prompts: Mapping[str, str]) -> dict[str, str]:
        how = next(iter(runners.values())).runs.conventions
        metrics = {name: f"{one.runs.metric.name}" for name, one in runners.items() if isinstance(one.runs, NodeCircuitRunner)}
        return how | {f"prompts of {name}": said for name, said in prompts.items()} | {f"metric of {k}": v for k, v in metrics.items()}


@dataclass(eq=False)
class _Overall:
    """Progress of several calls as one: each call counts alike."""

    calls: int
    _done: int = field(default=0)

    def __call__(self, done: int, total: int) -> None:
        step(self._done * total + done, max(self.calls, self._done + 1) * total)
        self._done += done == total
