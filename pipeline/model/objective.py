"""The model and its loss as one module: what is compiled, recomputed, and can be wrapped.

A GPU that is alone has all blocks compiled together, with what lies between them and around them,
unless they are so many that the compiler takes minutes. Elsewhere a block is compiled by itself,
once for all: a CPU's step is products, FSDP2 gathers and recomputation recomputes block by block,
and under DDP gradients are ready, to be summed by the ranks, block by block, while all of one
graph's are ready at its end.

Only rounding differs with compilation, and nothing with recomputation, which draws the same
dropout again.

Shapes are static: were they not, the first batch of another size would have all that follow
computed by another graph, which rounds otherwise, and a training that goes on from a checkpoint
would not meet it. So evaluations of a compiled model pad their batches (`perplexity`).
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.model.loss import mean_loss
from pipeline.params import Train

COMPILERS = ("c++", "g++", "clang++")
WHOLE_ON = {"cuda"}  # devices on which blocks are compiled together
TOGETHER = 24  # blocks, at most: each takes the compiler 3 s of a core, one for all 3 s in all


class Objective(nn.Module):
    """The mean loss of a batch.

    Attributes:
        model: computes; its blocks' `forward` are replaced, its parameters and their names stay.
    """

    def __init__(
        self, model: GPT, settings: Train, device: torch.device, *, whole: bool = True
    ) -> None:
        """
        Args:
            whole: whether the blocks may be compiled together.
        """
        super().__init__()
        self.model = model
        self.compiled = compiles(settings, device)
        if settings.activation_checkpointing:
            recompute_activations(model)
        if not self.compiled:
            return
        whole = whole and device.type in WHOLE_ON and len(model.h) <= TOGETHER
        if whole and not settings.activation_checkpointing:
            model.hidden = torch.compile(model.hidden, dynamic=False)  # type: ignore[method-assign]
            return
        for block in model.h:
            block.forward = torch.compile(block.forward, dynamic=False)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Token ids (B, T) and the ids that follow them (B, T) to nats per token, a scalar."""
        return mean_loss(
            self.model.hidden(inputs),
            self.model.padded_head_weight,
            targets,
            classes=self.model.config.vocab_size,
            compiled=self.compiled,
        )


def recompute_activations(model: GPT) -> None:
    """Have each block keep only its input, and compute the rest again in the backward pass."""
    for block in model.h:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compiles(settings: Train, device: torch.device) -> bool:
    """Whether to compile: `auto` does on CUDA, where launches count and trainings are long.

    Raises:
        UserError: it is asked for where the compiler that torch needs is missing.
    """
    if settings.compile is False or (settings.compile == "auto" and device.type != "cuda"):
        return False
    missing = _missing_compiler(device)
    if missing and settings.compile is True:
        raise UserError(f"train.compile: true needs {missing}, which is not there")
    return missing is None


def _missing_compiler(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None if find_spec("triton") else "Triton"
    given = os.environ.get("CXX")
    if any(map(shutil.which, [given] if given else COMPILERS)):
        return None
    return "a C++ compiler (g++, clang++, or CXX)"
