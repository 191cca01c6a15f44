"""Cross-entropy over GPT-2's 50,257 classes without ever holding all the logits.

The head's product and the softmax run over a few rows at a time. In training the gradients are
taken in the same pass, while a chunk's logits are still in the cache: this is the fused linear
cross-entropy of Liger Kernel, on PyTorch's own operations.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 512  # rows, the default batch: 512 x 50257 logits are 51 MB in bf16


def token_losses(hidden: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
    """Nats for each target token, float32, without gradients.

    Args:
        hidden: (..., C) outputs of the last layer norm.
        head_weight: (V, C).
        targets: (...) token ids.

    Returns:
        (...) losses in nats.
    """
    rows = hidden.reshape(-1, hidden.shape[-1])
    labels = targets.reshape(-1)
    losses = [
        F.cross_entropy(F.linear(h, head_weight).float(), t, reduction="none")
        for h, t in zip(rows.split(CHUNK), labels.split(CHUNK), strict=True)
    ]
    return torch.cat(losses).view(targets.shape)


def mean_loss(hidden: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
    """The mean of `token_losses`, a scalar with gradients for `hidden` and `head_weight`."""
    loss = _LinearCrossEntropy.apply(hidden, head_weight, targets)  # type: ignore[no-untyped-call]
    return cast(Tensor, loss)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
        dtype = _product_dtype(hidden)
        rows = hidden.reshape(-1, hidden.shape[-1]).to(dtype)
        labels = targets.reshape(-1)
        weight = head_weight.to(dtype)
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        grad_rows = torch.empty_like(rows)
        grad_weight: Tensor | None = None
        for start in range(0, len(rows), CHUNK):
            h, t = rows[start : start + CHUNK], labels[start : start + CHUNK, None]
            log_probs = F.log_softmax(F.linear(h, weight), dim=-1, dtype=torch.float32)
            total -= log_probs.gather(1, t).sum()
            grad = log_probs.exp_()  # d(sum of losses) / d(logits) = softmax - onehot
            grad.scatter_add_(1, t, grad.new_full(t.shape, -1.0))
            grad = grad.to(dtype)
            grad_rows[start : start + CHUNK] = grad @ weight
            if grad_weight is None:
                grad_weight = grad.T @ h
            else:
                grad_weight.addmm_(grad.T, h)
        assert grad_weight is not None, "no rows"
        ctx.save_for_backward(grad_rows.view_as(hidden), grad_weight)
        ctx.rows = len(rows)
        ctx.dtypes = hidden.dtype, head_weight.dtype
        return total / len(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        scale = grads[0] / ctx.rows
        grad_hidden, grad_weight = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        return (
            (grad_hidden * scale).to(hidden_dtype),
            grad_weight.mul_(scale).to(weight_dtype),
            None,
        )


def _product_dtype(like: Tensor) -> torch.dtype:
    """Autocast's type where it is on; it does not reach into a custom function's products."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype
