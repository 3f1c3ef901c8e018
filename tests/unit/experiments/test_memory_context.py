"""Memory against context on a model in which both heads were wired, and on one in which neither was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuitlab.core.nodes import Head
from circuitlab.experiments.memory_context import MemoryContext
from circuitlab.experiments.memory_context.conflict import Conflicts
from circuitlab.experiments.memory_context.scaling import choose_heads, scale_heads
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.batch import ContrastBatch
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache

COUNTRIES, CITIES = 8, 8
BLANK, QUERY, COUNTRY, CITY = 0, 1, 2, 2 + COUNTRIES
IN_CONTEXT, MEMORY = Head(1, 1), Head(1, 2)
FACTORS = (-1.0, 0.0, 1.0, 3.0)


def model(*, wired: bool = True):
    """Heads a1.h1 and a1.h2 copy the claimed city and the country's capital; half of the cities speak louder than memory."""
    wiring = Wiring("gqa", 2, CITY + CITIES)
    country, city, out = wiring.block(COUNTRIES), wiring.block(CITIES), wiring.block(CITIES)
    is_country, is_city, is_query = wiring.block(), wiring.block(), wiring.block()
    wiring.embed[QUERY, is_query[0]] = 1.0
    for i in range(COUNTRIES):
        wiring.embed[COUNTRY + i, country[i]] = 1.0
        wiring.embed[COUNTRY + i, is_country[0]] = 1.0
    for i in range(CITIES):
        wiring.embed[CITY + i, city[i]] = 0.5 if i % 2 else 1.3
        wiring.embed[CITY + i, is_city[0]] = 1.0
        wiring.unembed[CITY + i, out[i]] = 4.0
    if wired:
        wiring.match(IN_CONTEXT.layer, IN_CONTEXT.head, is_query, is_city, 14.0)
        wiring.carry(IN_CONTEXT.layer, IN_CONTEXT.head, city, out, 1.0)
        wiring.match(MEMORY.layer, MEMORY.head, is_query, is_country, 14.0)
        wiring.carry(MEMORY.layer, MEMORY.head, country, out, 0.9)
    wiring.background(0.02)
    return serve(wiring, "conflict")


def asked() -> Conflicts:
    """Every country with four other cities claimed to be its capital."""
    clean, corrupt, answers, foils, owner = [], [], [], [], []
    for i in range(COUNTRIES):
        for shift in range(1, 5):
            claimed, instead = (i + shift) % CITIES, (i + shift + 1) % CITIES
            clean.append([BLANK, COUNTRY + i, BLANK, CITY + claimed, QUERY])
            corrupt.append([BLANK, COUNTRY + i, BLANK, CITY + instead, QUERY])
            answers.append(CITY + claimed)
            foils.append(CITY + i)
            owner.append(i)
    batch = ContrastBatch.from_tokens(clean, corrupt, answers, foils)
    return Conflicts(batch, tuple(f"country {i}" for i in range(COUNTRIES)), np.array(owner), COUNTRIES)


def measured(tmp_path: Path, *, wired: bool):
    lab = ExperimentContext(MemoryContext(), model(wired=wired), 0, Cache(tmp_path))
    halves = asked().halves(lab.rng("halves"))
    chosen = choose_heads(lab.model, halves[0])
    return chosen, {"heads": chosen, "scaling": scale_heads(lab, halves, chosen, FACTORS, 2)}


def test_the_wired_heads_are_chosen_and_every_claim_replicates(tmp_path: Path) -> None:
    chosen, results = measured(tmp_path, wired=True)
    assert (chosen["in_context"], chosen["memory"]) == (str(IN_CONTEXT), str(MEMORY))
    claims = MemoryContext().judge(results)
    assert [claim.verdict for claim in claims] == ["replicates"] * 3
    rates = results["scaling"]["memory"]["rates"]
    assert [rate["mean"] for rate in rates["in_context"]] == pytest.approx([1.0, 1.0, 0.5, 0.0], abs=0.01)


def test_without_wired_heads_no_claim_replicates(tmp_path: Path) -> None:
    _, results = measured(tmp_path, wired=False)
    assert not [claim for claim in MemoryContext().judge(results) if claim.verdict == "replicates"]


def test_halves_share_no_country_and_keep_every_prompt() -> None:
    whole = asked()
    first, second = whole.halves(np.random.default_rng(0))
    assert not set(first.countries) & set(second.countries)
    assert first.batch.n_pairs + second.batch.n_pairs == whole.batch.n_pairs
    for half in (first, second):
        tokens = half.batch.clean[:, 1] - COUNTRY
        assert [half.countries[owner] for owner in half.owner] == [f"country {int(token)}" for token in tokens]


def test_figures_are_drawn_from_plain_data(tmp_path: Path) -> None:
    _, results = measured(tmp_path, wired=True)
    drawings = MemoryContext().draw(results, "toy")
    assert [drawing.name for drawing in drawings] == ["heads", "rates-memory", "rates-in_context"]
