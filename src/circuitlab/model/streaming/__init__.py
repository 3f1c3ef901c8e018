"""Layer streaming: models of which one layer at a time is in memory, for exact work on checkpoints that are bigger than memory."""

from circuitlab.model.streaming.model import StreamedModel

__all__ = ["StreamedModel"]
