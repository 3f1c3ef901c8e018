"""FrozenNorm: equal to the module, linear with its scale held, and foreign norms are refused."""

from __future__ import annotations

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from circuitlab.core.errors import ModelError
from circuitlab.model.norms import FrozenNorm

MODULES = {
    "rms": LlamaRMSNorm(16, eps=1e-5),
    "one_plus": Gemma3RMSNorm(16, eps=1e-6),
    "layer": torch.nn.LayerNorm(16),
    "layer_without_bias": torch.nn.LayerNorm(16, bias=False),
}


@pytest.fixture(params=MODULES)
def module(request):
    torch.manual_seed(0)
    chosen = MODULES[request.param].double()
    with torch.no_grad():
        for value in chosen.parameters():
            value.copy_(torch.randn(16) * 0.4 + (0.0 if request.param == "one_plus" else 1.0))
    return chosen


def test_a_norm_is_reproduced(module) -> None:
    x = torch.randn(5, 3, 16, dtype=torch.float64) * 4
    torch.testing.assert_close(FrozenNorm.of(module, 16).apply(x), module(x), atol=1e-6, rtol=1e-6)


def test_parts_pulled_back_sum_to_the_whole(module) -> None:
    norm = FrozenNorm.of(module, 16)
    parts = torch.randn(7, 5, 16, dtype=torch.float64)
    x, direction = parts.sum(0), torch.randn(5, 16, dtype=torch.float64)
    shares = (norm.pull_back(direction, x) * parts).sum(-1)
    whole = (module(x) * direction).sum(-1)
    torch.testing.assert_close(shares.sum(0) + norm.bias_dot(direction), whole, atol=1e-6, rtol=1e-6)


def test_gain_and_centring_are_what_is_left_at_scale_one(module) -> None:
    norm = FrozenNorm.of(module, 16)
    x, direction = torch.randn(5, 16, dtype=torch.float64) * 3, torch.randn(16, dtype=torch.float64)
    whole = (module(x) @ direction) - norm.bias_dot(direction)
    torch.testing.assert_close((x @ norm.transposed(direction)) / norm.scale(x)[:, 0], whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(norm.unit(x) * norm.gain + (0.0 if norm.bias is None else norm.bias), norm.apply(x))


def test_a_norm_of_another_kind_is_refused() -> None:
    class Cube(torch.nn.Module):
        eps = 1e-5

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(16))

        def forward(self, x):
            return x**3 * self.weight

    with pytest.raises(ModelError, match="Cube is neither"):
        FrozenNorm.of(Cube(), 16)
