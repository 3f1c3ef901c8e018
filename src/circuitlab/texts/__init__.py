"""Passages of natural text: a few hundred words of dozens of kinds that circuitlab ships, or a file of one's own.

>>> import circuitlab as cl
>>> [passage.kind for passage in cl.texts.load_texts(["recipe", "python"], n=4)]
['recipe', 'python', 'recipe', 'python']
"""

from circuitlab.texts.passages import Passage, list_kinds, load_texts, read_texts

__all__ = ["Passage", "list_kinds", "load_texts", "read_texts"]
