"""Studies: tasks and methods on one model, run cell by cell into a store, and the figures built from it."""
