"""Dropout that is quick on a CPU.

PyTorch draws a CPU's masks number by number from a Mersenne Twister, an eighth of a training step
at 124M, and its attention with dropout is written for generality. Here NumPy's SFC64 draws 16 bits
for each element, a twentieth of the time; its seed comes from PyTorch's generator, so that
`torch.manual_seed` decides, and activations computed again are dropped again. On other devices,
and compiled, everything is PyTorch's own.

Sharp edge: a probability is rounded to a multiple of 1/65536, and what is kept is scaled by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 2**16


class Dropout(nn.Module):
    """`nn.Dropout`, with `dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, p: float) -> Tensor:
    """`x` with elements zeroed with probability `p`, the others scaled to keep the mean."""
    if p == 0.0 or not _draws_here(x):
        return F.dropout(x, p)
    return x * _scales(x.shape, p).to(x.dtype)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
    """Each position's mean of the values up to it, (B, H, T, D); `p` of its weights are dropped.

    Args:
        q, k, v: (B, H, T, D).
    """
    if p == 0.0 or not _draws_here(q):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
    B, H, T, D = q.shape
    q, k, v = (part.reshape(B * H, T, D) for part in (q, k, v))
    future = q.new_full((T, T), -math.inf).triu(1)
    scores = torch.baddbmm(future, q, k.transpose(1, 2), alpha=1 / math.sqrt(D))  # (BH, T, T)
    weights = scores.softmax(dim=-1, dtype=torch.float32) * _scales((B * H, T, T), p)
    return weights.to(v.dtype).bmm(v).view(B, H, T, D)


def _draws_here(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _scales(shape: Sequence[int], p: float) -> Tensor:
    """0 where an element is dropped, else 1 / (1 - p); float32."""
    count = math.prod(shape)
    seed = int(torch.randint(2**63 - 1, ()))
    generator = np.random.Generator(np.random.SFC64(seed))
    words = generator.integers(0, 2**64 - 1, -(-count // 4), dtype=np.uint64, endpoint=True)
    dropped = round(p * LEVELS)
    kept = words.view(np.uint16)[:count] >= dropped
    scale = np.float32(LEVELS / (LEVELS - dropped))
    return torch.from_numpy(np.multiply(kept, scale, dtype=np.float32)).view(shape)
