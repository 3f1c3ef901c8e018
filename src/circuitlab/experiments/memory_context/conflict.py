"""Prompts that claim a wrong capital, and what a model answers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.model.batch import ContrastBatch
from circuitlab.model.encode import need_tokenizer
from circuitlab.model.prepare import prepare_batch
from circuitlab.scores.intervals import mean_interval
from circuitlab.tasks import Task, load_task
from circuitlab.tasks.load import read_tables, task_file

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["KINDS", "Conflicts", "conflicts"]

KINDS = ("in_context", "memorised", "other")
_TASK = "capitals"
_QUESTION = "Q: What is the capital of {country}? A: The capital of {country} is"
_CLAIM = "The capital of {country} is {city}. "


@dataclass(frozen=True, eq=False)
class Conflicts:
    """Prompts in which a claim contradicts memory.

    Parameters
    ----------
    batch : ContrastBatch
        Clean prompts make the claim; the answer is the claimed city and the foil the true one. Corrupt prompts claim another city.
    countries : tuple of str
        Countries in the batch.
    owner : ndarray of int, shape (pair,)
        Number of each prompt's country.
    n_asked : int
        Countries that were asked about without a claim.
    """

    batch: ContrastBatch
    countries: tuple[str, ...]
    owner: np.ndarray
    n_asked: int

    def halves(self, rng: np.random.Generator) -> tuple[Conflicts, Conflicts]:
        """Two sets of different countries; the first is the larger if their number is odd."""
        order = rng.permutation(len(self.countries))
        cut = -(-len(order) // 2)
        return self._of(sorted(order[:cut].tolist())), self._of(sorted(order[cut:].tolist()))

    def _of(self, countries: Sequence[int]) -> Conflicts:
        rows = [row for row, owner in enumerate(self.owner.tolist()) if owner in set(countries)]
        number = {country: i for i, country in enumerate(countries)}
        owner = np.array([number[int(self.owner[row])] for row in rows])
        return Conflicts(self.batch.select(rows), tuple(self.countries[i] for i in countries), owner, self.n_asked)

    def kinds(self, model: Model) -> np.ndarray:
        """Which answer the model gives first, shape (kind, pair), as 0 and 1, in the order of `KINDS`."""
        best = model.logits(self.batch.clean, self.batch.end).argmax(-1).cpu()
        claimed, true = ((best[:, None] == tokens).any(-1) for tokens in (self.batch.answers, self.batch.foils))
        return torch.stack([claimed, true, ~(claimed | true)]).double().numpy()

    def by_country(self, values: np.ndarray) -> np.ndarray:
        """Means over each country's prompts, shape (..., country)."""
        sums = np.stack([values[..., self.owner == i].mean(-1) for i in range(len(self.countries))], axis=-1)
        return np.asarray(sums)

    def rates(self, model: Model) -> dict[str, dict[str, float]]:
        """Share of each kind of answer, with its interval over countries."""
        return {kind: mean_interval(values).as_dict() for kind, values in zip(KINDS, self.by_country(self.kinds(model)), strict=True)}


def conflicts(model: Model, prompts: int, rng: np.random.Generator) -> Conflicts:
    """Prompts about every country whose capital the model answers without a claim.

    Parameters
    ----------
    model : Model
        With a tokenizer.
    prompts : int
        Claimed cities for each country: capitals of other known countries, drawn without repetition.
    rng : numpy Generator

    Returns
    -------
    Conflicts
        Cities that are not a single token after the prompt are left out.
    """
    table = _single_tokens(model, _rows())
    known = _known(model, table)
    rows: list[dict[str, Any]] = []
    owner: list[int] = []
    for number, (country, capital) in enumerate(known):
        others = [city for _, city in known if city != capital]
        if len(others) <= 1:
            continue
        order = rng.permutation(len(others))
        for i in range(min(prompts, len(others))):
            city, instead = others[order[i]], others[order[(i + 1) % len(others)]]
            words = _CLAIM.format(country=country, city=f"[CITY:{city}]"), _CLAIM.format(country=country, city=f"[CITY:{instead}]")
            question = _QUESTION.format(country=country)
            rows.append({"clean": words[0] + question, "corrupt": words[1] + question, "answer": city, "foil": capital})
            owner.append(number)
    if not rows:
        return Conflicts(_empty(), (), np.zeros(0, dtype=int), len(table))
    batch = prepare_batch(model, Task.from_pairs(rows, id="capital_conflict"), len(rows), strict=True)
    return Conflicts(batch, tuple(country for country, _ in known), np.array(owner), len(table))


def _rows() -> list[tuple[str, str]]:
    """Countries and capitals of the task about capitals, as they are shipped."""
    text = read_tables(load_task(_TASK), task_file(_TASK).parent)["capitals.csv"]
    return [(row["country"], row["capital"]) for row in csv.DictReader(io.StringIO(text))]


def _single_tokens(model: Model, rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    return [row for row in rows if len(tokenizer.encode(" " + row[1], add_special_tokens=False)) == 1]


def _known(model: Model, rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rows whose capital is the most probable next token after the question alone."""
    tokenizer = need_tokenizer(model.tokenizer, model.spec.name)
    known = []
    for country, capital in rows:
        ids = torch.tensor([tokenizer.encode(_QUESTION.format(country=country))])
        best = int(model.logits(ids, torch.tensor([ids.shape[1] - 1])).argmax(-1))
        if best == tokenizer.encode(" " + capital, add_special_tokens=False)[0]:
            known.append((country, capital))
    return known


def _empty() -> ContrastBatch:
    return ContrastBatch.from_tokens([[0]], [[1]], [0], [1])
