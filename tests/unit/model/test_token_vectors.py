"""What a token alone puts into the stream: what enters layer 0 where no position does, and the difference of two tokens where one does."""

from __future__ import annotations

import pytest
import torch

from circuitlab.core.errors import ModelError
from circuitlab.model import load_model
from circuitlab.model.token_vectors import token_vectors
from circuitlab.testing.tiny import tiny_hf, tiny_model

IDS = torch.tensor([3, 17, 40, 5])


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "bloom"])
def test_without_positions_it_is_what_enters_the_first_layer(family) -> None:
    model = tiny_model(family)
    entering = model.decoder.embed(IDS[None].repeat(2, 1))
    torch.testing.assert_close(token_vectors(model)(IDS), entering[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "opt", "xglm"])
def test_with_positions_two_tokens_differ_as_their_vectors_do(family) -> None:
    model = tiny_model(family)
    vectors = token_vectors(model)(IDS)
    entering = torch.stack([model.decoder.embed(torch.full((1, 4), int(token)))[0] for token in IDS])
    for place in range(4):
        torch.testing.assert_close(vectors - vectors[:1], entering[:, place] - entering[:1, place], atol=1e-5, rtol=1e-5)
    assert (vectors - entering[:, 0]).abs().max() > 0.1, "positions are left out"


def test_of_gpt2_it_is_the_row_of_the_embedding() -> None:
    hf = tiny_hf("gpt2")
    assert torch.equal(token_vectors(load_model(hf))(IDS), hf.transformer.wte.weight[IDS].detach())


@pytest.mark.filterwarnings("ignore")
def test_a_norm_over_tokens_and_positions_is_refused() -> None:
    with pytest.raises(ModelError, match="tiny-mbart adds for a token cannot be told"):
        token_vectors(tiny_model("mbart"))
