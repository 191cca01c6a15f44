"""FSDP2: a model of which each process holds a part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from pipeline.distributed.base import Parallel
from pipeline.distributed.full_state import gather_optimizer, gather_weights
from pipeline.distributed.world import World
from pipeline.model.gpt import GPT, meta_model
from pipeline.model.objective import Objective
from pipeline.model.runtime import Runtime


def shard(model: GPT, runtime: Runtime, world: World) -> None:
    """Divide the parameters among the ranks, in place, block by block.

    On CUDA blocks are gathered in the precision of their products; a CPU's layer norm takes no
    bf16 weights beside fp32 rows. What lies around the blocks is gathered in fp32.
    """
    mesh = init_device_mesh(runtime.device.type, (world.size,))
    in_bf16 = runtime.bf16 and runtime.device.type == "cuda"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if in_bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # the residual stream is in its type already, as without FSDP2
    )
    for block in model.h:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)  # the loss needs the head
    register_fsdp_forward_method(model, "hidden")


class Sharded(Parallel):
    """A model that `shard` has divided."""

    def __init__(self, world: World, objective: Objective) -> None:
        super().__init__(world, objective.model, objective)
        assert isinstance(self.master, FSDPModule)
        self._sharded: FSDPModule = self.master

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[object]:
        self._sharded.set_requires_gradient_sync(is_last)
        return nullcontext()

    def finish_gradients(self) -> None:
        pass

    def gradient_norm(self) -> Tensor:
        norm = super().gradient_norm()
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Embeddings and head stay gathered after a forward pass until a backward pass ends.

        None does here; and of gathered parameters the next step would reset other gradients than
        those that its backward pass adds to.
        """
        yield
        self._sharded.reshard()

    def weights(self, *, copy: bool = True) -> dict[str, Tensor]:
        return gather_weights(self.master)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return gather_optimizer(self.master, optimizer)

    def full_model(self) -> GPT | None:
        weights = self.weights()
        if not self.world.is_first:
            return None
        full = meta_model(self.master.config)
        full.load_state_dict(weights, assign=True)
        return full
