"""Cross-entropy over GPT-2's 50,257 classes without ever holding all the logits.

The head's product and the softmax run over a few rows at a time. In training the gradients are
taken in the same pass, while a chunk's logits are still in the cache: this is the fused linear
cross-entropy of Liger Kernel, on PyTorch's own operations.

Where products are in 16 bits, the head is padded to a multiple of 64 rows for them: tensor cores
are far slower on 50,257, and a CPU's AVX-512 by a quarter. The model that learns keeps its rows; a
head that comes padded already is not copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 512  # rows, the default batch: 512 x 50257 logits are 51 MB in bf16
CUDA_CHUNK = 8192  # 0.8 GB in bf16, and as much for their gradient
SUMS_IN_PRODUCT = {"cuda"}  # devices whose bf16 products can add to an fp32 sum
EVALUATED = 4096  # rows on CUDA without gradients: 0.8 GB of logits in fp32, twice
MULTIPLE = 64  # of classes
CACHED = 2**19  # logits; in fp32 they and their exponentials stay in a core's cache
SMALLEST = 1e-30  # a probability that fp32 still holds with all its digits

Softmax = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def token_losses(
    hidden: Tensor, head_weight: Tensor, targets: Tensor, *, classes: int | None = None
) -> Tensor:
    """Nats for each target token, float32, without gradients.

    Args:
        hidden: (..., C) outputs of the last layer norm.
        head_weight: (V, C), or more rows, of which the first `classes` are tokens.
        targets: (...) token ids.

    Returns:
        (...) losses in nats.
    """
    rows, weight, chunk = hidden.reshape(-1, hidden.shape[-1]), head_weight, CHUNK
    if rows.is_cuda:
        dtype = _product_dtype(rows)
        rows, weight, chunk = rows.to(dtype), padded(head_weight, dtype), EVALUATED
    losses = _losses(rows, weight, targets.reshape(-1), classes or len(head_weight), chunk)
    return losses.view(targets.shape)


def _losses(rows: Tensor, weight: Tensor, labels: Tensor, classes: int, chunk: int) -> Tensor:
    """(N,) losses of rows (N, C), so many at a time."""
    losses = [
        F.cross_entropy(logits[:, :classes].float(), label, reduction="none")
        for h, t in zip(rows.split(chunk), labels.split(chunk), strict=True)
        for logits, label in _in_cache(F.linear(h, weight), t)
    ]
    return torch.cat(losses)


def mean_loss(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    *,
    classes: int | None = None,
    compiled: bool = False,
) -> Tensor:
    """The mean of `token_losses`, a scalar with gradients for `hidden` and `head_weight`.

    Args:
        compiled: fuse what lies between the products with `torch.compile`.
    """
    loss = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden,
        head_weight,
        targets,
        len(head_weight) if classes is None else classes,
        _compiled_softmax() if compiled else _softmax,
    )
    return cast(Tensor, loss)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head_weight: Tensor,
        targets: Tensor,
        classes: int,
        softmax: Softmax,
    ) -> Tensor:
        dtype = _product_dtype(hidden)
        rows = hidden.reshape(-1, hidden.shape[-1]).to(dtype)  # (N, C)
        labels = targets.reshape(-1)
        weight = padded(head_weight, dtype)  # (V', C)
        chunk = CUDA_CHUNK if rows.is_cuda else CHUNK
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        grad_rows = torch.empty_like(rows)
        grad_weight: Tensor | None = None
        for start in range(0, len(rows), chunk):
            h, t = rows[start : start + chunk], labels[start : start + chunk]
            loss, grad = softmax(F.linear(h, weight), t, classes)
            total += loss
            torch.mm(grad, weight, out=grad_rows[start : start + chunk])
            grad_weight = _add_product(grad_weight, grad, h / len(rows))
        assert grad_weight is not None, "no rows"
        grad_hidden = grad_rows.div_(len(rows)).view_as(hidden).to(hidden.dtype)
        grad_weight = grad_weight[: len(head_weight)].to(head_weight.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return total / len(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (scale,) = grads
        grad_hidden, grad_weight = ctx.saved_tensors
        if scale.is_cpu and scale == 1.0:  # elsewhere, looking would be waiting
            return grad_hidden, grad_weight, None, None, None
        return grad_hidden * scale, grad_weight.mul_(scale), None, None, None


def _softmax(logits: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The summed loss of logits (N, V'), in nats, and its gradient (N, V').

    Columns from `classes` on are padding, without a gradient. The logits are overwritten.
    """
    loss = torch.zeros((), dtype=torch.float32, device=logits.device)
    for some, label in _in_cache(logits[:, :classes], labels[:, None]):
        grad = some.softmax(dim=-1, dtype=torch.float32)
        loss += _nats(grad, some, label)
        # d(sum of losses) / d(logits) = softmax - onehot
        grad.scatter_add_(1, label, grad.new_full(label.shape, -1.0))
        some.copy_(grad)
    logits[:, classes:] = 0.0
    return loss, logits


def _nats(probabilities: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """The summed loss of `labels` (N, 1), given the softmax (N, V) of `logits` (N, V).

    A logarithm of the label's probability where fp32 holds that; else by way of the likeliest
    class, whose probability is never small. On a GPU always so: looking would be waiting.
    """
    of_labels = probabilities.gather(1, labels)
    if logits.is_cpu and bool((of_labels > SMALLEST).all()):
        return -of_labels.log().sum()
    log_sum_exp = logits.amax(1, keepdim=True) - probabilities.amax(1, keepdim=True).log()
    return (log_sum_exp - logits.gather(1, labels)).sum()


def _in_cache(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (N, V) and labels (N, ...) a few rows at a time, on a CPU; elsewhere at once."""
    rows = max(1, CACHED // logits.shape[1]) if logits.is_cpu else max(1, len(logits))
    return zip(logits.split(rows), labels.split(rows), strict=True)


def _fusible_softmax(logits: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """`_softmax` in words of which the compiler makes one kernel: no scatter, gather or slice.

    It reads each row twice, the second time from a GPU's cache. Written over the logits, the
    gradient would be stored twice.
    """
    column = torch.arange(logits.shape[1], device=logits.device)
    scores = logits.float().masked_fill(column >= classes, -math.inf)
    log_probs = scores.log_softmax(dim=-1)
    is_label = column == labels[:, None]
    losses = torch.where(is_label, -log_probs, 0.0).sum(dim=-1)
    return losses.sum(), (log_probs.exp() - is_label.float()).to(logits.dtype)


@cache
def _compiled_softmax() -> Softmax:
    return torch.compile(_fusible_softmax, dynamic=False)


def padded(head_weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The head's matrix in the products' type; in 16 bits with rows of zeros up to a multiple."""
    classes, width = head_weight.shape
    missing = -classes % MULTIPLE
    if dtype.itemsize != 2 or not missing:
        return head_weight.to(dtype)
    weight = head_weight.new_empty(classes + missing, width, dtype=dtype)
    weight[:classes] = head_weight
    weight[classes:] = 0.0
    return weight


def _add_product(total: Tensor | None, grad: Tensor, rows: Tensor) -> Tensor:
    """`total` + grad.T (V', N) @ rows (N, C), its sums in fp32 whatever the products are in."""
    in_product = rows.device.type in SUMS_IN_PRODUCT and rows.dtype == torch.bfloat16
    if total is None:
        if in_product:
            return torch.mm(grad.T, rows, out_dtype=torch.float32)
        return grad.T @ rows
    if in_product:
        return torch.addmm(total, grad.T, rows, out_dtype=torch.float32, out=total)
    if total.dtype == rows.dtype == torch.float32:
        return total.addmm_(grad.T, rows)
    return total.float().add_(grad.T @ rows)


def _product_dtype(like: Tensor) -> torch.dtype:
    """Autocast's type where it is on; it does not reach into a custom function's products."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
