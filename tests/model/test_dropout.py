"""Dropout's own masks, and attention with them, against PyTorch's words for both."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from pipeline.model.dropout import Dropout, causal_attention, dropout

NEVER = 1e-9  # so rare that nothing is dropped, though the path with dropout is taken


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_p_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(1)
    dropped = dropout(torch.ones(1_000_000), p)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=1e-3)
    five_sigma = 5 * math.sqrt(p * (1 - p) / 1e6)
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=five_sigma + 1e-5)
    assert dropped.double().mean().item() == pytest.approx(1.0, abs=five_sigma / (1 - p))


def test_neighbours_are_independent() -> None:
    torch.manual_seed(2)
    zeros = (dropout(torch.ones(400_000), 0.5) == 0).double()
    for distance in (1, 2, 3, 4, 256):
        together = (zeros[distance:] * zeros[:-distance]).mean().item()
        assert together == pytest.approx(0.25, abs=0.005)


def test_the_seed_decides_and_each_call_draws_anew() -> None:
    ones = torch.ones(3, 5, 7)
    torch.manual_seed(3)
    first, second = dropout(ones, 0.5), dropout(ones, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(ones, 0.5), first)
    assert not torch.equal(first, second)


def test_the_gradient_is_dropped_where_the_value_is() -> None:
    x = torch.full((1000,), 2.0, requires_grad=True)
    y = dropout(x, 0.3)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach() / 2)


def test_evaluating_drops_and_draws_nothing() -> None:
    x = torch.rand(10)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    assert Dropout(0.9).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_pytorchs_where_nothing_is_dropped(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(3, 2, 4, 9, 8, generator=generator).to(dtype).requires_grad_()
    expected = F.scaled_dot_product_attention(*qkv, is_causal=True)
    got = causal_attention(*qkv, p=NEVER)
    assert got.dtype == dtype
    direction = torch.randn(expected.shape, generator=generator).to(dtype)
    gradients = [torch.autograd.grad(y, qkv, direction)[0] for y in (expected, got)]
    tolerance = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(got, expected, **tolerance)
    torch.testing.assert_close(gradients[1], gradients[0], **tolerance)


def test_attention_drops_weights_not_values() -> None:
    """With values that name their position, the weights can be read off the output."""
    T = 6
    q = k = torch.zeros(1, 1, T, T)
    torch.manual_seed(6)
    weights = causal_attention(q, k, torch.eye(T)[None, None], p=0.5)[0, 0]
    kept = weights[weights > 0]
    assert not weights.triu(1).any()
    assert 0 < len(kept) < T * (T + 1) / 2
    rows = torch.arange(1, T + 1.0)[:, None].expand(T, T)
    assert torch.allclose(kept, (2 / rows)[weights > 0])  # 1 / row, scaled by 1 / (1 - 0.5)
