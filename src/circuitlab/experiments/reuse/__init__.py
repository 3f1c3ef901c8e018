"""The circuit-reuse study: staged path patching on two tasks and controls, roles, overlap, and the attention-edit repair."""

from circuitlab.experiments.reuse.record import ReuseSettings, reuse_record

__all__ = ["ReuseSettings", "reuse_record"]
