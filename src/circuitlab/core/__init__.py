"""The foundation of the package: errors, node names, provenance, files and progress. Needs only the standard library and msgspec."""
