"""Weights on disk: fetched from a package index, verified, dequantised once, kept as safetensors in the user's cache."""
