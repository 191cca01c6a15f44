"""Causal attention that is quick to train on a CPU, with dropout of its weights.

PyTorch's own takes 1.4 to 2 times as long at 124M, with dropout as without, forward and backward.
Here queries go a block at a time past the keys up to it, so that what lies in the future is mostly
not computed, and a block's weights are still in the cache when they are dropped and multiplied
with the values. The backward pass needs no mask: where a weight was dropped, the dropped weights
are zero (the rest is that of FlashAttention, Dao et al. 2022, with the weights kept).

Shapes: B batch, T tokens, H heads, D channels of a head, N = B * H.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.model.dropout import Draws, computes_here, zeroed

BLOCK = 128  # queries: of 64 to 256 the quickest in bf16, at 256 tokens and at 1024
LONGEST = 2048  # tokens; beyond, keeping the weights is dearer than computing them again


def causal_attention(qkv: Tensor, p: float) -> Tensor:
    """Each position's mean of the values up to it, heads side by side; (B, T, H * D).

    Args:
        qkv: (B, T, 3, H, D) queries, keys and values.
        p: share of the weights that are dropped.
    """
    B, T, _, H, D = qkv.shape
    trains = p > 0.0 or (torch.is_grad_enabled() and T <= LONGEST)
    if trains and computes_here(qkv):
        return cast(Tensor, _CausalAttention.apply(qkv, p))  # type: ignore[no-untyped-call]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, T, D)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
    return y.transpose(1, 2).reshape(B, T, H * D)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, p: float) -> Tensor:
        B, T, _, H, D = qkv.shape
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, B * H, T, D)
        q = q / math.sqrt(D)
        draws = Draws(p) if p else None
        future = q.new_full((BLOCK, BLOCK), -math.inf).triu(1)
        y = torch.empty_like(q)
        kept = []
        for start, end in _blocks(T):
            scores = q[:, start:end].bmm(k[:, :end].transpose(1, 2))  # (N, block, end)
            scores[:, :, start:] += future[: end - start, : end - start]
            weights = scores.softmax(dim=-1)
            dropped = zeroed(weights, draws.kept(weights.shape)) if draws else weights
            y[:, start:end] = dropped.bmm(v[:, :end])
            kept += [weights, dropped]
        ctx.scale = draws.scale if draws else 1.0
        y.mul_(ctx.scale)
        ctx.save_for_backward(q, k, v, y, *kept)
        return y.view(B, H, T, D).transpose(1, 2).reshape(B, T, H * D)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        q, k, v, y, *kept = ctx.saved_tensors
        N, T, D = q.shape
        B = len(grads[0])
        H = N // B
        grad_y = grads[0].view(B, T, H, D).transpose(1, 2).reshape(N, T, D)
        # What a softmax takes from each score's gradient: the gradients' mean by its weights.
        mean = (grad_y * y).sum(dim=-1, keepdim=True)  # (N, T, 1)
        grad_y = grad_y * ctx.scale
        grad = torch.zeros(3, N, T, D, dtype=q.dtype)
        grad_q, grad_k, grad_v = grad
        for place, (start, end) in enumerate(_blocks(T)):
            weights, dropped = kept[2 * place : 2 * place + 2]  # (N, block, end)
            here = grad_y[:, start:end]
            grad_scores = here.bmm(v[:, :end].transpose(1, 2)).mul_(dropped)
            grad_scores.addcmul_(weights, mean[:, start:end], value=-1.0)
            grad_q[:, start:end] = grad_scores.bmm(k[:, :end])
            grad_k[:, :end] += grad_scores.transpose(1, 2).bmm(q[:, start:end])
            grad_v[:, :end] += dropped.transpose(1, 2).bmm(here)
        grad_q.div_(math.sqrt(D))
        return grad.view(3, B, H, T, D).permute(1, 3, 0, 2, 4).contiguous(), None


def _blocks(tokens: int) -> Iterator[tuple[int, int]]:
    for start in range(0, tokens, BLOCK):
        yield start, min(start + BLOCK, tokens)
