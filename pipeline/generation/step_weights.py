"""A model's weights as decoding steps use them: packed for a kernel, copied where that pays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pipeline.generation.matmul_kernels import (
    KERNELS,
    Kernel,
    MatMul,
    Precision,
    can_copy,
    choose_kernel,
)
from pipeline.generation.speculative import DRAFT_FROM
from pipeline.model.gpt import GPT, Block

Norm = Callable[[Tensor], Tensor]


class PackedBlock(NamedTuple):
    """One block's norms and matmuls, in the order of their use."""

    ln_1: Norm
    c_attn: MatMul
    attn_proj: MatMul
    ln_2: Norm
    c_fc: MatMul
    mlp_proj: MatMul


class PackedWeights(NamedTuple):
    """A model's norms and matmuls, all by one kernel."""

    blocks: list[PackedBlock]
    ln_f: Norm
    head: MatMul


def pack(model: GPT, kernel: Kernel) -> PackedWeights:
    """Prepare the model's weights for a kernel; copies are valid until the weights change."""
    make = KERNELS[kernel]

    def matmul(linear: nn.Linear) -> MatMul:
        return make(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())

    blocks = [
        PackedBlock(
            _norm(block.ln_1),
            matmul(block.attn.c_attn),
            matmul(block.attn.c_proj),
            _norm(block.ln_2),
            matmul(block.mlp.c_fc),
            matmul(block.mlp.c_proj),
        )
        for block in cast(Iterable[Block], model.h)
    ]
    return PackedWeights(blocks, _norm(model.ln_f), make(model.head_weight.detach(), None))


def _norm(norm: nn.LayerNorm) -> Norm:
    weight, bias = norm.weight.detach(), norm.bias.detach()
    shape, eps = norm.normalized_shape, norm.eps
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


class StepWeights:
    """Chooses a step's kernel, and keeps the copies of the weights that kernels need.

    Attributes:
        tokens_alone: tokens of single requests in earlier calls, which drafts would have sped up.
    """

    def __init__(self, model: GPT, precision: Precision) -> None:
        self.model, self.precision = model, precision
        self.tokens_alone = 0
        self._packed: dict[Kernel, PackedWeights] = {}
        self._choose = cache(partial(choose_kernel, model, precision=precision))
        self._can_draft = self.exact and can_copy(model, "int8")

    @property
    def exact(self) -> bool:
        """Whether greedy output is that of the model recomputing everything."""
        return self.precision == "model"

    def for_steps(self, rows: int, steps: int) -> PackedWeights:
        """The fastest weights for `steps` steps of `rows` tokens each."""
        return self.packed(self._choose(rows, steps))

    def can_draft(self, steps: int) -> bool:
        """Whether the 8-bit copy may draft for a request of `steps` more tokens."""
        pays = "int8" in self._packed or self.tokens_alone + steps >= DRAFT_FROM
        return self._can_draft and pays

    def prepare(self) -> None:
        """Make the copies now."""
        if self._can_draft:
            self.for_steps(rows=2, steps=DRAFT_FROM)
            self.packed("int8")

    def packed(self, kernel: Kernel) -> PackedWeights:
        """The weights for a kernel, packed when they are first asked for."""
        if kernel not in self._packed:
            with torch.inference_mode():
                self._packed[kernel] = pack(self.model, kernel)
        return self._packed[kernel]
