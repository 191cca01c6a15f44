"""Attention's own training kernel against PyTorch's words for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.model import attention
from pipeline.model.attention import BLOCK, causal_attention

NEVER = 1e-9  # so rare that nothing is dropped, though the path with dropout is taken


def qkv_of(B: int, T: int, H: int, D: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    qkv = torch.randn(B, T, 3, H, D, generator=generator, dtype=torch.float64)
    return qkv.to(dtype).requires_grad_()


def pytorchs(qkv: Tensor) -> Tensor:
    B, T, _, H, D = qkv.shape
    y = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True)
    return y.transpose(1, 2).reshape(B, T, H * D)


@pytest.mark.parametrize("p", [0.0, NEVER])
@pytest.mark.parametrize("T", [1, 9, BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_is_pytorchs_where_nothing_is_dropped(dtype: torch.dtype, T: int, p: float) -> None:
    qkv = qkv_of(2, T, 3, 8, dtype)
    expected, got = pytorchs(qkv), causal_attention(qkv, p)
    assert got.dtype == dtype
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(6)).to(dtype)
    gradients = [torch.autograd.grad(y, qkv, direction)[0] for y in (expected, got)]
    tolerance = {"rtol": 0.02, "atol": 0.03} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(got, expected, **tolerance)
    torch.testing.assert_close(gradients[1], gradients[0], **tolerance)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_the_gradient_is_that_of_the_value(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 4)

    def value(qkv: Tensor) -> Tensor:
        torch.manual_seed(7)  # the same weights dropped each time
        return causal_attention(qkv, p)

    assert torch.autograd.gradcheck(value, qkv_of(2, 10, 2, 3))


def test_drops_weights_not_values() -> None:
    """With values that name their position, the weights can be read off the output."""
    T, p = 2 * BLOCK, 0.25
    qkv = torch.zeros(1, T, 3, 1, T)
    qkv[:, :, 2, 0] = torch.eye(T)
    torch.manual_seed(6)
    weights = causal_attention(qkv, p)[0]
    kept = weights > 0
    assert not weights.triu(1).any()
    places = T * (T + 1) / 2
    assert kept.sum() / places == pytest.approx(1 - p, abs=0.01)
    rows = torch.arange(1, T + 1.0)[:, None].expand(T, T)
    torch.testing.assert_close(weights[kept], (1 / (1 - p) / rows)[kept])


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_a_context_too_long_to_keep_is_left_to_pytorch(
    p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "LONGEST", 8)
    name = type(causal_attention(qkv_of(1, 9, 1, 2), p).grad_fn).__name__
    assert ("CausalAttention" in name) == (p > 0)


def test_without_gradients_it_is_pytorchs_to_the_bit() -> None:
    with torch.no_grad():
        qkv = qkv_of(2, 9, 2, 4, torch.float32)
        assert torch.equal(causal_attention(qkv, 0.0), pytorchs(qkv))
