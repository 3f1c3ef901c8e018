"""Workflows: check a task, score it, find a circuit, evaluate it, compare tasks, grade methods. The command line calls these."""
