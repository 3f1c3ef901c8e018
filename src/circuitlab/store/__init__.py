"""The cache: results that took long to compute, kept on disk and looked up by everything they depend on."""

from circuitlab.store.cache import Cache
from circuitlab.store.checkpoint import Checkpoint
from circuitlab.store.codecs import EDGE_SCORES, HEAD_SCORES, Codec, Document, Documents
from circuitlab.store.merge import MergeResult, merge_stores
from circuitlab.store.misfits import MISFITS, misfit

__all__ = [
    "EDGE_SCORES",
    "HEAD_SCORES",
    "MISFITS",
    "Cache",
    "Checkpoint",
    "Codec",
    "Document",
    "Documents",
    "MergeResult",
    "merge_stores",
    "misfit",
]
