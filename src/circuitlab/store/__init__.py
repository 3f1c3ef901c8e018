"""The cache: whatever took long to compute, on disk, found again by everything it depends on."""

from circuitlab.store.cache import Cache
from circuitlab.store.checkpoint import Checkpoint
from circuitlab.store.codecs import EDGE_SCORES, HEAD_SCORES, Codec, Document, Documents

__all__ = ["EDGE_SCORES", "HEAD_SCORES", "Cache", "Checkpoint", "Codec", "Document", "Documents"]
