"""The experiment in stored steps, on passages that are given as tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitlab.experiments.data_selection.features import Settings, vectors
from circuitlab.experiments.data_selection.selection import helped, precisions, selected

if TYPE_CHECKING:
    from circuitlab.experiments.data_selection.kinds import Split
    from circuitlab.experiments.types import ExperimentContext

__all__ = ["measured"]


def measured(context: ExperimentContext, parts: Split, tokens: int) -> dict[str, Any]:
    """Rank, then read: the experiment's settings are those of the context; ``tokens`` is how many the autoencoder is trained on."""
    own: Any = context.experiment
    settings = Settings(own.units, own.active, own.epochs, tokens, context.seed)

    def rank() -> dict[str, Any]:
        each, about = vectors(context.model, parts, settings)
        return {
            "autoencoder": about,
            "precision": precisions(each, parts, context.rng("rankings")),
            "selected": selected(each, parts, own.shown),
        }

    with context.share(0.0, 0.4):
        ranked = context.stored("ranked", rank)
    with context.share(0.4, 1.0):
        chosen = ranked["selected"]
        loss = context.stored("helped", lambda: helped(context.model, parts, chosen, context.rng("random"), own.random_draws))
    return {**ranked, "loss": loss, "sizes": {"pool": len(parts.pool), "tasks": len(parts.tasks)}}
