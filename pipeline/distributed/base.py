"""Every process computes its share of a batch's loss and gradients with a whole model of its own.

Sharp edge: but for `micro_batch`, every method is a collective, and under FSDP2 so is whatever
runs the model: all ranks do it, the same number of times.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.optim import Optimizer

from pipeline.distributed.shards import WHOLE
from pipeline.distributed.world import World
from pipeline.model.gpt import GPT
from pipeline.model.objective import Objective


class Parallel:
    """Every process computes its share with a whole model of its own.

    Attributes:
        objective: the module to call, for the loss of this rank's share.
        shard: what this rank reads and writes of a checkpoint; `WHOLE`: rank 0 does, for all.
    """

    shard = WHOLE

    def __init__(self, world: World, master: GPT, objective: Objective) -> None:
        """`master` learns; the objective's model, often the same, runs forward and backward."""
        self.world = world
        self.master = master
        self.objective: nn.Module = objective

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[object]:
        """Around a forward and a backward pass; the last of a step reduces all ranks'."""
        return nullcontext()

    def finish_gradients(self) -> None:
        """After the last micro-batch: the master's gradients are the mean over all ranks."""
        if self.world.is_alone:
            return
        gradients = [p.grad for p in self.master.parameters() if p.grad is not None]
        pending = [dist.all_reduce(gradient, async_op=True) for gradient in gradients]
        for work, gradient in zip(pending, gradients, strict=True):
            assert work is not None, "asked for one"
            work.wait()
            gradient.div_(self.world.size)

    def evaluation(self) -> AbstractContextManager[object]:
        """Around forward passes that no backward pass follows."""
        return nullcontext()

    def gradient_norm(self) -> Tensor:
        """Of all gradients together, a scalar.

        By rows first: along a whole embedding's gradient a CPU's fp32 sum loses 0.3 %.
        """
        gradients = [p.grad for p in self.master.parameters() if p.grad is not None]
        rows = [vector_norm(gradient, dim=-1) for gradient in gradients]
        norm: Tensor = vector_norm(torch.stack([vector_norm(each) for each in rows]))
        return norm

    def weights(self) -> dict[str, Tensor]:
        """What this rank keeps of the weights, where they lie: rank 0 all, the others nothing."""
        return self.master.state_dict() if self.world.is_first else {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What this rank keeps of `Optimizer.state_dict`."""
        return optimizer.state_dict() if self.world.is_first else {}

    def gather_weights(self, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of which each rank gives what it keeps: whole, on the CPU, for rank 0."""
        return {name: tensor.to("cpu") for name, tensor in kept.items()}

    def gather_optimizer(self, optimizer: Optimizer) -> dict[str, Any]:
        """`Optimizer.state_dict`, whole, on any device, for rank 0; nothing for the others."""
        return self.optimizer_state(optimizer)

    def saved(
        self, best: dict[str, Tensor], optimizer: Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """What this rank writes of weights, best weights and optimizer, where they lie.

        Args:
            best: what it keeps of the best weights.
        """
        return self.weights(), best, self.optimizer_state(optimizer)

    def load(
        self,
        weights: dict[str, Tensor],
        best: dict[str, Tensor],
        optimizer: Optimizer,
        state: dict[str, Any],
    ) -> dict[str, Tensor]:
        """Load what this rank has read, and return what it keeps of the best weights."""
        load_weights(self.world, self.master, weights)
        load_optimizer(self.world, self.master, optimizer, state)
        return best

    def full_model(self) -> GPT | None:
        """A model that rank 0 can run by itself; None for the others."""
        return self.master if self.world.is_first else None


def load_weights(world: World, model: GPT, weights: dict[str, Tensor]) -> None:
    """Load the state dict that rank 0 gives into every rank's model."""
    if world.is_alone:
        model.load_state_dict(weights)
    else:
        # takes a second to import, which one process need not wait for
        from pipeline.distributed.full_state import scatter_weights

        scatter_weights(world, model, weights)


def load_optimizer(world: World, model: GPT, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load the state, as `Optimizer.state_dict` has it, that rank 0 gives into every rank's."""
    if world.is_alone:
        optimizer.load_state_dict(state)
    else:
        from pipeline.distributed.full_state import scatter_optimizer

        scatter_optimizer(world, model, optimizer, state)
