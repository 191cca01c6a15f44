"""Dropout that is quick on a CPU.

PyTorch draws a CPU's masks number by number from a Mersenne Twister, an eighth of a training step
at 124M. Here NumPy's SFC64 draws 16 bits for each element, and whole numbers compare and multiply;
its seed comes from PyTorch's generator, so that `torch.manual_seed` decides, and activations
computed again are dropped again. On other devices, and compiled, everything is PyTorch's own.

Sharp edge: a probability is rounded to a multiple of 1/65536, and what is kept is scaled by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 2**16
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by an element's bytes


class Dropout(nn.Module):
    """`nn.Dropout`, with `dropout`."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x


def dropout(x: Tensor, p: float) -> Tensor:
    """`x` with elements zeroed with probability `p`, the others scaled to keep the mean."""
    if p == 0.0 or not computes_here(x):
        return F.dropout(x, p)
    return cast(Tensor, _Dropout.apply(x, p))  # type: ignore[no-untyped-call]


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        draws = Draws(p)
        kept = draws.kept(x.shape)
        ctx.save_for_backward(kept)
        ctx.scale = draws.scale
        return zeroed(x, kept).mul_(draws.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), (kept,) = grads, ctx.saved_tensors
        return zeroed(grad, kept).mul_(ctx.scale), None


class Draws:
    """Which elements are dropped, from one seed.

    Attributes:
        scale: by which to multiply what is kept, so that the mean stays.
    """

    def __init__(self, p: float) -> None:
        seed = int(torch.randint(2**63 - 1, ()))
        self._generator = np.random.Generator(np.random.SFC64(seed))
        dropped = round(p * LEVELS)
        self._lowest = dropped - LEVELS // 2  # of the signed numbers that are kept
        self.scale = LEVELS / (LEVELS - dropped)

    def kept(self, shape: Sequence[int]) -> Tensor:
        """1 where an element is kept, else 0; int16."""
        count = prod(shape)
        words = self._generator.integers(
            0, 2**64 - 1, -(-count // 4), dtype=np.uint64, endpoint=True
        )
        drawn = torch.from_numpy(words.view(np.int16))[:count]
        return drawn.ge_(self._lowest).view(shape)


def zeroed(x: Tensor, kept: Tensor) -> Tensor:
    """A copy of `x` with zeros where `kept` is 0.

    Its bits are multiplied as whole numbers, several times as fast as numbers of two types.
    """
    bits = BITS[x.element_size()]
    return torch.mul(x.contiguous().view(bits), kept.to(bits)).view(x.dtype)


def computes_here(x: Tensor) -> bool:
    """Whether this package's own kernels are the quicker ones for `x`, not PyTorch's."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
