"""FSDP2: a model of which each process holds a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

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

from pipeline.distributed.base import Parallel, load_weights
from pipeline.distributed.full_state import gather_optimizer, gather_weights
from pipeline.distributed.shards import WHOLE, Shard
from pipeline.distributed.world import World
from pipeline.model.gpt import GPT, meta_model
from pipeline.model.objective import Objective
from pipeline.model.runtime import Runtime

BF16_ON = {"cuda"}  # devices on which bf16 weights are gathered


def shard(model: GPT, runtime: Runtime, world: World, replicas: int = 1) -> None:
    """Divide the parameters among the ranks, in place, block by block.

    With several replicas (HSDP) neighbouring ranks, as those of a machine are, form a group that
    divides the model; only gradients, already divided, are summed over the groups.

    On CUDA everything is gathered in the precision of the products, and so the residual stream is
    in it; gradients are summed in fp32. On a CPU, whose residual stream stays fp32, layer norms
    take no bf16 weights beside it.
    """
    group = world.size // replicas
    shape, names = ((replicas, group), ("replicas", "shards")) if replicas > 1 else ((group,), None)
    mesh = init_device_mesh(runtime.device.type, shape, mesh_dim_names=names)
    in_bf16 = runtime.bf16 and runtime.device.type in BF16_ON
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if in_bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # the residual stream is in its type already, as without FSDP2
    )
    for block in model.h:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # the loss needs the head
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    register_fsdp_forward_method(model, "hidden")


class Sharded(Parallel):
    """A model that `shard` has divided."""

    def __init__(self, world: World, objective: Objective, shard: Shard = WHOLE) -> None:
        super().__init__(world, objective.model, objective)
        self.shard = shard
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

    def weights(self) -> dict[str, Tensor]:
        return cast(dict[str, Tensor], _local(self.master.state_dict()))

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return cast(dict[str, Any], _local(optimizer.state_dict()))

    def gather_weights(self, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        whole = {}
        for name, parameter in self._parameters():
            tensor = _like(parameter, kept[name]).full_tensor()  # on every rank, one at a time
            if self.world.is_first:
                whole[name] = tensor.to("cpu", copy=True)
        return whole

    def gather_optimizer(self, optimizer: Optimizer) -> dict[str, Any]:
        return gather_optimizer(self.master, optimizer)

    def saved(
        self, best: dict[str, Tensor], optimizer: Optimizer
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        if self.shard != WHOLE:
            return super().saved(best, optimizer)
        weights, best = (self.gather_weights(kept) for kept in (self.weights(), best))
        return weights, best, self.gather_optimizer(optimizer)

    @torch.no_grad()
    def load(
        self,
        weights: dict[str, Tensor],
        best: dict[str, Tensor],
        optimizer: Optimizer,
        state: dict[str, Any],
    ) -> dict[str, Tensor]:
        if self.shard == WHOLE:
            load_weights(self.world, self.master, best)
            kept = {name: tensor.to("cpu", copy=True) for name, tensor in self.weights().items()}
            super().load(weights, best, optimizer, state)
            return kept
        for name, parameter in self._parameters():
            parameter.to_local().copy_(weights[name])
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moments = {
            number: {
                name: _like(parameter, tensor) if tensor.dim() else tensor
                for name, tensor in state["state"][number].items()
            }
            for number, parameter in enumerate(parameters)
        }
        optimizer.load_state_dict({**state, "state": moments})
        return best

    def _parameters(self) -> Iterable[tuple[str, DTensor]]:
        return cast(Iterable[tuple[str, DTensor]], self.master.named_parameters())

    def full_model(self) -> GPT | None:
        weights = gather_weights(self.master)
        if not self.world.is_first:
            return None
        full = meta_model(self.master.config)
        full.load_state_dict(weights, assign=True)
        return full


def _local(value: Any) -> Any:
    """Nested dictionaries with this rank's shards in place of what is sharded."""
    if isinstance(value, dict):
        return {key: _local(inner) for key, inner in value.items()}
    return value.to_local() if isinstance(value, DTensor) else value


def _like(parameter: DTensor, shard: Tensor) -> DTensor:
    """The tensor of which each rank gives its shard, divided as the parameter is."""
    return DTensor.from_local(
        shard.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
