"""Dropout's own masks: how many, how independent, and where the gradient goes."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.model.dropout import Dropout, dropout


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_drops_p_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    dropped = dropout(torch.ones(1_000_000, dtype=dtype), p)
    assert dropped.dtype == dtype
    rounding = 0.004 if dtype == torch.bfloat16 else 1e-3
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)], rel=rounding)
    five_sigma = 5 * math.sqrt(p * (1 - p) / 1e6)
    assert (dropped == 0).float().mean().item() == pytest.approx(p, abs=five_sigma + 1e-5)
    kept = (1 - p) * dropped.double().mean().item()
    assert kept == pytest.approx(1 - p, abs=five_sigma + rounding * (1 - p))


def test_keeps_the_mean_in_16_bits() -> None:
    """The scale itself is not rounded to 16 bits, which would be off by 0.16 % at 0.1."""
    torch.manual_seed(1)
    x = torch.linspace(1.0, 2.0, 1_000_000).bfloat16()
    kept = (y := dropout(x, 0.1)) != 0
    ratio = y[kept].double().mean() / x[kept].double().mean()
    assert ratio.item() == pytest.approx(1 / 0.9, rel=2e-4)


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


def test_the_gradient_may_come_in_any_layout() -> None:
    x = torch.rand(6, 4, requires_grad=True)
    torch.manual_seed(5)
    y = dropout(x.t(), 0.5)
    weights = torch.rand(6, 4)
    (y * weights.t()).sum().backward()
    torch.testing.assert_close(x.grad, weights * 2 * (y.detach().t() != 0))


def test_evaluating_drops_and_draws_nothing() -> None:
    x = torch.rand(10)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    assert Dropout(0.9).eval()(x) is x
    assert torch.equal(torch.get_rng_state(), before)
