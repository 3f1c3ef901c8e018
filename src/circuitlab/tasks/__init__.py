"""Tasks: data files that define what a model is asked, and the deterministic prompt pairs they yield. Imports no numpy and no torch."""

from circuitlab.tasks.load import is_task, list_tasks, load_task, tasks_folder
from circuitlab.tasks.pairs import sample_pairs
from circuitlab.tasks.spec import Example, Task

__all__ = ["Example", "Task", "is_task", "list_tasks", "load_task", "sample_pairs", "tasks_folder"]
