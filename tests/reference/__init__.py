"""Slow, independent implementations that fast code is checked against. Nothing here imports circuitlab."""
