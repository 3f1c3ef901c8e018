"""What everything else stands on: errors, node names, provenance, files and progress. Only the standard library and msgspec."""
