"""Every parity tolerance in one table, in logits."""

TINY_FLOAT32 = 1e-4
REAL_FLOAT32 = 1e-3
TINY_EDGES = 1e-5
