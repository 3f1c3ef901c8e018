"""A budget of heads on a model whose tokens need a head each, and on one whose loud heads are of no use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuitlab.core.errors import BadParameterError
from circuitlab.experiments import get_experiment
from circuitlab.experiments.head_budget import HeadBudget
from circuitlab.experiments.head_budget.budget import budget_losses, kept_of, load_difference
from circuitlab.experiments.types import ExperimentContext
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache

N = 5
BLANK, ASK_A, ASK_B, CUE_A = 0, 1, 2, 3
CUE_B, OUT = CUE_A + N, CUE_A + 2 * N


def model(*, loud_is_useful: bool = True):
    """a1.h0 answers one question and a1.h2 another; otherwise only a1.h0 does, and the others write longer vectors that nothing reads.

    A head that is not asked attends to the blank, and writes nothing.
    """
    wiring = Wiring("gqa", 2, OUT + N)
    cues_a, cues_b, out, void = (wiring.block(N) for _ in range(4))
    ask_a, ask_b, is_a, is_b, rest, is_blank = (wiring.block() for _ in range(6))
    wiring.embed[:, rest[0]] = 1.0
    wiring.embed[BLANK, is_blank[0]] = 1.0
    for token, mark in ((ASK_A, ask_a), (ASK_B, ask_b)):
        wiring.embed[token, rest[0]], wiring.embed[token, mark[0]] = 0.0, 1.0
    for i in range(N):
        wiring.embed[CUE_A + i, cues_a[i]] = wiring.embed[CUE_A + i, is_a[0]] = 1.0
        wiring.embed[CUE_B + i, cues_b[i]] = wiring.embed[CUE_B + i, is_b[0]] = 1.0
        wiring.unembed[OUT + i, out[i]] = 8.0 if loud_is_useful else 80.0
    for head, asked, other, cues, mark in ((0, ask_a, ask_b, cues_a, is_a), (2, ask_b, ask_a, cues_b, is_b)):
        wiring.match(1, head, rest, is_blank, 7.0)
        wiring.match(1, head, other, is_blank, 7.0)
        wiring.match(1, head, asked, mark, 14.0)
        if loud_is_useful or not head:
            wiring.carry(1, head, cues, out, 1.0 if loud_is_useful else 0.1)
    for head, cues, mark in () if loud_is_useful else ((1, cues_a, is_a), (2, cues_b, is_b), (3, cues_b, is_b)):
        for asked in (ask_a, ask_b):
            wiring.match(1, head, asked, mark, 60.0)
        wiring.carry(1, head, cues, void, 1.0)
    wiring.background(0.02 if loud_is_useful else 0.002)
    return serve(wiring, "budget")


def passages(n: int, seed: int, asked: str = "ABAB") -> list[tuple[int, ...]]:
    """A blank, two cues, then questions with their answers."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(n):
        a, b = rng.integers(N, size=2).tolist()
        pairs = [(ASK_A, OUT + a) if which == "A" else (ASK_B, OUT + b) for which in asked]
        rows.append((BLANK, CUE_A + a, CUE_B + b, *(token for pair in pairs for token in pair)))
    return rows


def results(tmp_path: Path, *, loud_is_useful: bool):
    context = ExperimentContext(HeadBudget(), model(loud_is_useful=loud_is_useful), 0, Cache(tmp_path))
    losses = budget_losses(context, passages(6, 1), passages(8, 2), (0.75, 0.5, 0.25), 3)
    groups = {"code": passages(6, 3, "AAA"), "prose": passages(6, 4, "BBB" if loud_is_useful else "AAA")}
    return {"losses": losses, "loads": {**load_difference(context.model, groups, 1, context.rng("shuffled")), "kept": 1}}


def test_where_tokens_need_a_head_each_every_claim_replicates(tmp_path: Path) -> None:
    about = results(tmp_path, loud_is_useful=True)
    claims = HeadBudget().judge(about)
    assert [claim.verdict for claim in claims] == ["replicates"] * 4, [claim.here for claim in claims]
    assert about["losses"]["rises"]["write"][2]["mean"] < 0.02
    assert about["losses"]["rises"]["fixed"][2]["mean"] > 0.1
    assert [drawing.name for drawing in HeadBudget().draw(about, "toy")] == ["losses", "loads"]


def test_where_loud_heads_are_of_no_use_no_claim_replicates(tmp_path: Path) -> None:
    claims = HeadBudget().judge(results(tmp_path, loud_is_useful=False))
    assert [claim.verdict for claim in claims] == ["does not replicate"] * 4, [claim.here for claim in claims]


def test_a_share_stands_for_the_next_whole_number_of_heads() -> None:
    assert [kept_of(share, 9) for share in (0.75, 0.5, 0.25, 0.01, 1 / 3)] == [7, 5, 3, 1, 3]


def test_shares_that_do_not_fall_are_refused() -> None:
    for shares in ((0.5, 0.75), (1.0, 0.5), ()):
        with pytest.raises(BadParameterError, match="shares"):
            get_experiment("head_budget", {"shares": shares})
