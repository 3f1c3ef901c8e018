"""Prompts that claim a wrong capital, and what a model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from circuitlab.experiments.capitals import QUESTION, countries, known_capitals, single_token_rows
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.prepare import prepare_batch
from circuitlab.scores.intervals import rate_interval
from circuitlab.tasks import Task

if TYPE_CHECKING:
    from circuitlab.model.protocol import Model

__all__ = ["KINDS", "Conflicts", "conflicts"]

KINDS = ("in_context", "memorised", "other")
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
        return {kind: rate_interval(values).as_dict() for kind, values in zip(KINDS, self.by_country(self.kinds(model)), strict=True)}


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
    table = single_token_rows(model, countries(), ("capital",))
    known = [(row.name, row.capital) for row in known_capitals(model, table)]
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
            question = QUESTION.format(country=country)
            rows.append({"clean": words[0] + question, "corrupt": words[1] + question, "answer": city, "foil": capital})
            owner.append(number)
    if not rows:
        return Conflicts(_empty(), (), np.zeros(0, dtype=int), len(table))
    batch = prepare_batch(model, Task.from_pairs(rows, id="capital_conflict"), len(rows), strict=True)
    return Conflicts(batch, tuple(country for country, _ in known), np.array(owner), len(table))


def _empty() -> ContrastBatch:
    return ContrastBatch.from_tokens([[0]], [[1]], [0], [1])
