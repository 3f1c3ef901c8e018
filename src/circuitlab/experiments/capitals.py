"""Countries with their capitals and languages, and those whose capital a model answers: for experiments about factual recall."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from circuitlab.tasks import load_task
from circuitlab.tasks.load import read_tables, task_file

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["QUESTION", "Country", "countries", "known_capitals", "single_token_rows"]

QUESTION = "Q: What is the capital of {country}? A: The capital of {country} is"
_TASK = "capitals"


@dataclass(frozen=True)
class Country:
    """One row of the table of the tasks about countries."""

    name: str
    capital: str
    language: str


def countries() -> list[Country]:
    """The rows of the task about capitals, as they are shipped."""
    text = read_tables(load_task(_TASK), task_file(_TASK).parent)["capitals.csv"]
    return [Country(row["country"], row["capital"], row["language"]) for row in csv.DictReader(io.StringIO(text))]


def single_token_rows(model: Model, rows: Sequence[Country], words: Sequence[str]) -> list[Country]:
    """Rows whose words (``"name"``, ``"capital"``, ``"language"``) are one token each after a space."""
    from circuitlab.execute.single_tokens import single_token  # noqa: PLC0415 - torch

    return [row for row in rows if all(single_token(model, " " + getattr(row, word)) is not None for word in words)]


def known_capitals(model: Model, rows: Sequence[Country]) -> list[Country]:
    """Rows whose capital, a single token, is the most probable next token after `QUESTION` alone."""
    import torch  # noqa: PLC0415 - listing experiments must not load torch

    from circuitlab.model.encode import need_tokenizer  # noqa: PLC0415

    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    known = []
    for row in rows:
        ids = torch.tensor([tokenizer.encode(QUESTION.format(country=row.name))])
        best = int(model.logits(ids, torch.tensor([ids.shape[1] - 1])).argmax(-1))
        if best == tokenizer.encode(" " + row.capital, add_special_tokens=False)[0]:
            known.append(row)
    return known
