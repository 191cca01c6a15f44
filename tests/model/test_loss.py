"""The chunked loss against PyTorch's own cross-entropy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pipeline.model import loss as loss_module
from pipeline.model.loss import (
    CHUNK,
    Softmax,
    _add_product,
    _fusible_softmax,
    _losses,
    _softmax,
    mean_loss,
    padded,
    token_losses,
)


def random_case(rows: int, width: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows * 31 + width * 7 + classes)
    hidden = torch.randn(rows, width, generator=generator, requires_grad=True)
    weight = torch.randn(classes, width, generator=generator, requires_grad=True)
    return hidden, weight, torch.randint(0, classes, (rows,), generator=generator)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.sampled_from([1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3]),
    width=st.integers(1, 9),
    classes=st.integers(2, 40),
)
def test_equals_pytorch_with_gradients(rows: int, width: int, classes: int) -> None:
    hidden, weight, targets = random_case(rows, width, classes)
    expected = F.cross_entropy(hidden @ weight.T, targets)
    wanted = torch.autograd.grad(expected, (hidden, weight))
    loss = mean_loss(hidden, weight, targets)
    got = torch.autograd.grad(loss * 3, (hidden, weight))
    torch.testing.assert_close(loss, expected)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, 3 * theirs, rtol=1e-4, atol=1e-6)


def test_token_losses_keep_the_targets_shape() -> None:
    hidden, weight, targets = random_case(2 * CHUNK + 6, 4, 11)
    losses = token_losses(hidden.view(2, -1, 4), weight, targets.view(2, -1))
    assert losses.shape == (2, CHUNK + 3)
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(losses.flatten(), expected)


def test_rows_past_the_classes_are_no_tokens() -> None:
    hidden, weight, targets = random_case(6, 4, 11)
    more = torch.cat([weight, torch.full((5, 4), 3.0)])
    for losses in (token_losses, mean_loss):
        expected = losses(hidden, weight, targets)
        torch.testing.assert_close(losses(hidden, more, targets, classes=11), expected)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_what_a_gpu_computes_without_gradients_is_the_same(
    dtype: torch.dtype, close: float
) -> None:
    """A head in the products' type, padded in 16 bits, and chunks of another size."""
    hidden, weight, targets = random_case(21, 4, 11)
    with torch.no_grad():
        expected = token_losses(hidden, weight, targets)
        for chunk in (1, 8, 21, 100):
            losses = _losses(hidden.to(dtype), padded(weight, dtype), targets, 11, chunk)
            assert losses.dtype == torch.float32
            torch.testing.assert_close(losses, expected, rtol=0, atol=close)


def test_padded_classes_get_no_loss_and_no_gradient() -> None:
    hidden, weight, targets = random_case(6, 4, 11)
    logits = (hidden @ weight.T).detach()
    wider = F.pad(logits, (0, 5), value=9.0)
    expected = _softmax(logits, targets, 11)
    for softmax in (_softmax, _fusible_softmax):
        loss, grad = softmax(wider.clone(), targets, 11)
        torch.testing.assert_close((loss, grad[:, :11]), expected)
        assert not grad[:, 11:].any()


@pytest.mark.parametrize("softmax", [_softmax, _fusible_softmax])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_label_of_no_probability_has_its_finite_loss(
    dtype: torch.dtype, softmax: Softmax
) -> None:
    logits = torch.tensor([[300.0, 0.0, 1.0], [2.0, 0.0, 1.0]]).to(dtype)
    targets = torch.tensor([1, 0])
    expected = F.cross_entropy(logits.float(), targets, reduction="sum")
    loss, grad = softmax(logits.clone(), targets, 3)
    torch.testing.assert_close(loss, expected)
    assert grad[0].tolist() == [1.0, -1.0, 0.0]


@pytest.mark.parametrize("softmax", [_softmax, _fusible_softmax])
def test_logits_that_are_no_numbers_are_no_loss(softmax: Softmax) -> None:
    logits = torch.tensor([[1.0, math.nan, 0.0], [2.0, 0.0, 1.0]])
    loss, _ = softmax(logits, torch.tensor([0, 0]), 3)
    assert loss.isnan()


def test_chunks_of_bf16_products_are_summed_in_fp32() -> None:
    ones = torch.ones(2, 1, dtype=torch.bfloat16)
    total = _add_product(None, ones * 128, ones)
    total = _add_product(total, ones / 2, ones)  # bf16 has no 257
    assert total.dtype == torch.float32
    assert total.item() == 257


def test_products_that_add_to_a_sum_take_what_they_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their types and shapes, on a device without numbers: CUDA alone computes them."""
    monkeypatch.setattr(loss_module, "SUMS_IN_PRODUCT", {"meta"})
    grad = torch.empty(6, 128, dtype=torch.bfloat16, device="meta")
    rows = torch.empty(6, 8, dtype=torch.bfloat16, device="meta")
    first = _add_product(None, grad, rows)
    assert (first.dtype, first.shape) == (torch.float32, (128, 8))
    assert _add_product(first, grad, rows) is first
    assert _add_product(None, grad.float(), rows.float()).dtype == torch.float32
    with pytest.raises(NotImplementedError):
        torch.mm(torch.ones(1, 1).bfloat16(), torch.ones(1, 1).bfloat16(), out_dtype=torch.float32)


@pytest.mark.slow  # the compiler is imported
@pytest.mark.timeout(1200)
def test_the_compiled_softmax_reads_logits_once_and_writes_their_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing else of their size lies between: the compiler counts what its kernels would move."""
    from torch._inductor import config, metrics
    from torch._inductor.async_compile import AsyncCompile

    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", lambda *_, **__: lambda *_: None)
    logits = torch.zeros(64, 4096, dtype=torch.bfloat16)
    torch._logging.set_logs(inductor_metrics=True)  # else nothing is counted
    metrics.reset()
    try:
        with config.patch(force_disable_caches=True):
            torch.compile(_fusible_softmax, dynamic=False)(logits, torch.arange(64), 4090)
    finally:
        torch._logging.set_logs()
        torch._dynamo.reset()  # what was compiled computes nothing
    assert metrics.num_bytes_accessed / logits.nbytes == pytest.approx(2.0, abs=0.02)


def test_products_follow_autocast() -> None:
    hidden, weight, targets = random_case(64, 32, 50)
    exact = mean_loss(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = mean_loss(hidden, weight, targets)
    assert rounded.item() != exact.item()
    assert rounded.item() == pytest.approx(exact.item(), rel=0.01)
    assert torch.autograd.grad(rounded, weight)[0].dtype == torch.float32
