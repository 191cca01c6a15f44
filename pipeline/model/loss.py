"""Cross-entropy over GPT-2's 50,257 classes without ever holding all the logits.

The head's product and the softmax run over a few rows at a time. In training the gradients are
taken in the same pass, while a chunk's logits are still in the cache: this is the fused linear
cross-entropy of Liger Kernel, on PyTorch's own operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 256  # rows; 256 x 50257 bf16 logits are 26 MB


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
    loss: Tensor = _LinearCrossEntropy.apply(hidden, head_weight, targets)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        labels = targets.reshape(-1)
        weight = head_weight.to(rows.dtype)
        total = rows.new_zeros((), dtype=torch.float32)
        grad_rows = torch.empty_like(rows)
        grad_weight: Tensor | None = None
        for start in range(0, len(rows), CHUNK):
            h, t = rows[start : start + CHUNK], labels[start : start + CHUNK]
            log_probs = F.log_softmax((h @ weight.T).float(), dim=-1)
            total -= log_probs.gather(1, t[:, None]).sum()
            grad = log_probs.exp_()  # softmax - onehot, over the number of rows
            grad.scatter_add_(1, t[:, None], grad.new_full((len(t), 1), -1.0))
            grad = grad.div_(len(rows)).to(h.dtype)
            grad_rows[start : start + CHUNK] = grad @ weight
            if grad_weight is None:
                grad_weight = grad.T @ h
            else:
                grad_weight.addmm_(grad.T, h)
        assert grad_weight is not None, "no rows"
        ctx.save_for_backward(grad_rows.view_as(hidden), grad_weight)
        ctx.weight_dtype = head_weight.dtype
        return total / len(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (upstream,) = grads
        grad_hidden, grad_weight = ctx.saved_tensors
        return (
            grad_hidden * upstream.to(grad_hidden.dtype),
            (grad_weight * upstream.to(grad_weight.dtype)).to(ctx.weight_dtype),
            None,
        )
