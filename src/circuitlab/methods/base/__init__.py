"""What methods share: the contract, progress, and chunked sweeps."""

from circuitlab.methods.base.contract import (
    Method,
    effective_params,
    progress_part,
    provenance_of,
    report_progress,
    require_additive,
    require_linear,
    step,
)
from circuitlab.methods.base.reference import with_reference

__all__ = [
    "Method",
    "effective_params",
    "progress_part",
    "provenance_of",
    "report_progress",
    "require_additive",
    "require_linear",
    "step",
    "with_reference",
]
