"""The circuit-reuse study of Merullo et al. (2024): staged path patching on two tasks and controls, head roles, overlap, repair."""
