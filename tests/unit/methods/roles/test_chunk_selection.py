"""LongHeads' chunk selection: chunk keys by hand, a planted head that picks what is asked for, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from circuitlab.core.errors import BadParameterError
from circuitlab.methods.roles.evidence import ChunkSelection, chosen_chunks, chunk_keys
from circuitlab.methods.roles.needles import NeedleTest
from circuitlab.model.sites import Site
from circuitlab.model.toy.serve import serve
from circuitlab.model.toy.wiring import Wiring
from circuitlab.testing.tiny import tiny_model

ROWS = ((3, 5, 0, 6, 2, 4, 7), (1, 4, 2, 6, 0, 7, 5), (7, 5, 4, 6, 2, 0, 3))


def pairs(chosen=(2, 5)) -> tuple[NeedleTest, ...]:
    """Each row asked for the token at either place, by repeating it."""
    one, two = chosen
    tests = []
    for row in ROWS:
        for asked, rest in ((one, two), (two, one)):
            tests.append(NeedleTest((*row, row[asked]), evidence=(asked, asked + 1), other=(rest, rest + 1), question=(7, 8)))
    return tuple(tests)


@pytest.mark.parametrize("form", ["gqa", "mha"])
def test_a_planted_head_that_looks_for_its_own_token_picks_the_chunk_asked_for(form) -> None:
    wiring = Wiring(form, 1, 8)
    token, out = wiring.block(8), wiring.block(8)
    for i in range(8):
        wiring.embed[i, token[i]] = 1.0
        wiring.unembed[i, out[i]] = 1.0
    wiring.match(0, 2, token, token, 20.0)
    wiring.carry(0, 2, token, out, 1.0)
    scores = ChunkSelection(tests=pairs(), chunk=1, chosen=1)(serve(wiring, "chunks"))
    assert scores.value[0, 2] == 1 and (scores.reference[:, 0, 2] == 0).all()
    assert np.argwhere(scores.earned()).tolist() == [[0, 2]]


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3"])
def test_chunk_keys_equal_a_slow_reading(family) -> None:
    model = tiny_model(family)
    stream = model.capture(torch.tensor([[3, 9, 4, 4, 7, 1, 5, 8, 2, 6, 30, 31, 32]]), [Site.RESID_PRE])[Site.RESID_PRE][0, 1]
    block, angles = model.decoder.blocks[1], model.decoder.geometry(4)[1].angles_of(0, 4)
    keys = chunk_keys(block, stream[:12].unflatten(0, (3, 4)), angles)
    group = model.spec.n_heads // model.spec.n_kv_heads
    for number in range(3):
        normed = block.norm_attn.apply(stream[4 * number : 4 * number + 4])
        q = block.rotated_q(block.split(block.q(normed)), angles)
        k, v = block.rotated_k(block.split(block.k(normed)), angles), block.split(block.v(normed))
        for head in range(4):
            own, scale = head // group, block.scale
            read = (q[:, head] @ k[:, own].T * scale).softmax(-1) @ v[:, own]
            weights = (read.mean(0) @ k[:, own].T * scale).softmax(-1)
            torch.testing.assert_close(keys[number, head], weights @ k[:, own], atol=1e-5, rtol=1e-5)
    picked = chosen_chunks(model, 1, stream, (12, 13), (4, 1))
    assert picked.shape == (4, 1, 3) and (picked.sum(-1) == 1).all() and not picked[..., 0].any(), "the first chunk is not picked from"
    query = block.rotated_q(block.split(block.q(block.norm_attn.apply(stream[12:]))), None)[0]
    best = (query * keys).sum(-1)[1:].argmax(0) + 1
    np.testing.assert_array_equal(picked[:, 0].argmax(-1), best.numpy())


def test_more_picks_than_chunks_are_refused() -> None:
    with pytest.raises(BadParameterError, match="2 of the 2 chunks before the question would be picked"):
        ChunkSelection(tests=pairs(), chunk=2, chosen=2)(tiny_model("llama"))
    with pytest.raises(BadParameterError, match="leave nothing to pick"):
        ChunkSelection(chunk=0)
