"""Run store: finished runs on disk, found by what they are."""

from circuitlab.store.documents import DocumentStore
from circuitlab.store.run_store import RunStore

__all__ = ["DocumentStore", "RunStore"]
