"""Successor heads on a model in which one was wired, with lists that share its index features, and on the same model without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuitlab.core.nodes import Head
from circuitlab.experiments.successor_heads import SuccessorHeads
from circuitlab.experiments.successor_heads.features import arithmetic, autoencoders, probed
from circuitlab.experiments.successor_heads.in_text import effects
from circuitlab.experiments.successor_heads.items import Reading, items_of, without
from circuitlab.experiments.successor_heads.scoring import matrix_and_bias, right_items, score_heads
from circuitlab.experiments.successor_heads.spaces import recombined
from circuitlab.experiments.types import ExperimentContext
from circuitlab.methods.roles.successor import Successor
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.store import Cache
from circuitlab.testing.tiny import tiny_model

LENGTH, NAMES, HEAD = 12, ("number_words", "months", "letters"), Head(1, 1)
BLANKS, RESIDUES, STEEP = 2, 10, 8.0
LISTS = {name: [BLANKS + number * LENGTH + place for place in range(LENGTH)] for number, name in enumerate(NAMES)}


def model(*, wired: bool = True):
    """The first MLP copies residue, ten and list of a token; a1.h1 writes the next residue, a little of all later ones, ten and list."""
    wiring = Wiring("gqa", 2, BLANKS + LENGTH * len(NAMES))
    sizes = (RESIDUES, 2, len(NAMES))
    token, read, out = ([wiring.block(size) for size in sizes] for _ in range(3))
    for number, tokens in enumerate(LISTS.values()):
        for index, item in enumerate(tokens, start=1):
            for block, place, size in zip(range(3), (index % RESIDUES, index // RESIDUES, number), (4.0, 1.5, 4.0), strict=True):
                wiring.embed[item, token[block][place]] = 1.0
                wiring.unembed[item, out[block][place]] = size
    for source, target in zip(token, read, strict=True):
        for incoming, written in zip(source, target, strict=True):
            wiring.unit(0, {incoming: STEEP}, 0.0, written, 1.0 / STEEP)
    if wired:
        wiring.match(HEAD.layer, HEAD.head, [*token[0], *token[2]], [*token[0], *token[2]], 14.0)
        following = [out[0][(residue + 1) % RESIDUES] for residue in range(RESIDUES)]
        wiring.carry(HEAD.layer, HEAD.head, [*read[0], *read[1], *read[2]], [*following, *out[1], *out[2]], 1.0)
        for residue in range(1, RESIDUES):  # rows of the value are features in order
            for later in range(residue + 1, RESIDUES):
                wiring.output[HEAD.layer, HEAD.head, out[0][later], residue] += 0.6
            if residue > LENGTH - RESIDUES:  # 1 and 2 share their residues with 11 and 12
                wiring.output[HEAD.layer, HEAD.head, out[1][1], residue] += 2.0
    wiring.background(0.02)
    return serve(wiring, "lists")


def texts() -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Rows that count up in one list, between blanks and items of another list out of order."""
    rows, places = [], []
    for number, tokens in enumerate(LISTS.values()):
        others = list(LISTS.values())[(number + 1) % 3]
        for start in range(4):
            rows.append((0, others[start + 5], 1, *tokens[start : start + 3], 0, others[start], 1))
            places.append([3, 4])
    return rows, places


def measured(tmp_path: Path, *, wired: bool):
    lab = ExperimentContext(SuccessorHeads(), model(wired=wired), 0, Cache(tmp_path))
    items = items_of(lab.model, LISTS)
    scores = score_heads(lab.model, items, Successor(orders=tuple(map(tuple, LISTS.values()))))
    reading = Reading(lab.model, HEAD)
    words = LISTS["number_words"], np.arange(1, LENGTH + 1) % RESIDUES
    probe, control, about = probed(reading, without(items, ["number_words"]), words, lab.rng("probe"))
    moved = arithmetic(reading, items, probe, control)
    for one in moved.values():
        one["words"] = [str(token) for token in one.pop("tokens")]
    features = {
        "spaces": recombined(reading, items, lab.rng("spaces")),
        "probe": about,
        "saes": autoencoders(reading, items, items.tokens, [0], probe),
        "arithmetic": moved,
    }
    heads = {"chosen": [HEAD], "random": [Head(1, 0), Head(1, 3)]}
    text = effects(lab.model, *texts(), heads)
    bias = matrix_and_bias(lab, items, HEAD, 3)
    bias["words"] = [str(token) for token in bias["tokens"]]
    return {"scores": scores, "bias": bias, "features": features, "text": {"digits": text, "passages": text}}


def test_the_wired_head_is_chosen_and_every_claim_replicates(tmp_path: Path) -> None:
    results = measured(tmp_path, wired=True)
    assert results["scores"]["head"] == str(HEAD) and results["scores"]["score"] == 1.0
    claims = SuccessorHeads().judge(results)
    assert [claim.verdict for claim in claims] == ["replicates"] * 9, "\n".join(f"{claim.verdict}: {claim.here}" for claim in claims)
    assert results["features"]["spaces"]["right"]["mean"] > 0.9
    assert [drawing.name for drawing in SuccessorHeads().draw(results, "toy")] == [
        "heads",
        "lists",
        "matrix",
        "arithmetic",
        "moves",
        "text",
    ]


def test_without_the_head_nothing_that_is_about_a_head_replicates(tmp_path: Path) -> None:
    claims = SuccessorHeads().judge(measured(tmp_path, wired=False))
    assert [claims[i].verdict for i in (2, 5, 6, 7, 8)] == ["cannot be asked"] * 5
    of_the_reading = {3, 4}  # what the first MLP writes is still there
    assert not [claim.claim for i, claim in enumerate(claims) if claim.verdict == "replicates" and i not in of_the_reading]


def test_items_keep_their_places_and_what_follows() -> None:
    toy = tiny_model("llama")
    items = items_of(toy, {"round": [3, 4, 5, 6, 7, 3], "straight": [10, 11, 12, 13, 14], "short": [20, 21]})
    assert items.names == ("round", "straight") and items.round_lists == {"round"}
    assert items.following.tolist() == [1, 2, 3, 4, 0, 6, 7, 8, 9, -1] and items.index.tolist() == [1, 2, 3, 4, 5] * 2
    left = without(items, ["round"])
    assert left.tokens == (10, 11, 12, 13, 14) and left.following.tolist() == [1, 2, 3, 4, -1] and left.round_lists == frozenset()


def test_the_share_of_right_items_is_that_of_the_role() -> None:
    toy, tokens = tiny_model("llama"), [5, 9, 3, 17, 11, 23, 30, 8]
    role = Successor(orders=((*tokens, tokens[0]),))
    scores = role(toy)
    items = items_of(toy, {"list": [*tokens, tokens[0]]})
    for layer, head in np.ndindex(toy.spec.n_layers, toy.spec.n_heads):
        assert right_items(Reading(toy, Head(layer, head)), items).mean() == pytest.approx(scores.value[layer, head])


def test_a_model_without_a_tokenizer_cannot_be_asked(tmp_path: Path) -> None:
    gate = SuccessorHeads().gate(ExperimentContext(SuccessorHeads(), tiny_model("llama"), 0, Cache(tmp_path)))
    assert not gate.met and "no tokenizer" in gate.reason
