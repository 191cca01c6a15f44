"""How the processes of a training compute one model's losses and gradients.

    base.Parallel    each process the whole model: one process; or several that all-reduce their
                     gradients after a step's last micro-batch, where DDP does not work (bf16 on a
                     CPU, whose gradients are collected outside of autograd)
    ddp.Replicated   DDP: the same, with the all-reduce overlapping the backward pass
    fsdp.Sharded     FSDP2: each process a part of every parameter, its gradient and its moments;
                     importing it takes a second that one process need not wait for

Each rank takes its share of every batch; a loss is the mean over the share, a gradient the mean
over all ranks, so both are those of the whole batch in one process, but for rounding.

Outputs hold full states, in the form that one process gives them. So do checkpoints, but for those
of a sharded model whose ranks all see rank 0's folder: each writes its shard there, and reads what
will be its own of however many there are (`shards`). A training goes on with another number of
processes, or another way of sharing, than it began with.
"""

from __future__ import annotations

from pipeline.distributed.base import Parallel, load_weights
from pipeline.distributed.ddp import Replicated
from pipeline.distributed.shards import Shard
from pipeline.distributed.world import World
from pipeline.model.gpt import GPT, GPTConfig, meta_model
from pipeline.model.objective import Objective
from pipeline.model.runtime import Runtime


def parallelize(
    world: World, master: GPT, objective: Objective, shard: Shard, *, sharded: bool
) -> Parallel:
    """The kind that fits: `master` sharded or not, computed by itself or by a copy.

    Args:
        shard: what this rank reads and writes of checkpoints of a sharded model.
    """
    if world.is_alone:
        return Parallel(world, master, objective)
    if sharded:
        from pipeline.distributed.fsdp import Sharded

        return Sharded(world, objective, shard)
    if objective.model is master:
        return Replicated(world, objective)
    return Parallel(world, master, objective)


def place_model(
    world: World, model: GPT | None, config: GPTConfig, runtime: Runtime, *, replicas: int | None
) -> GPT:
    """Rank 0's `model`, which lies on the CPU, on every rank's device; None on other ranks.

    Args:
        replicas: groups of ranks that each shard it; None: every rank holds all of it.
    """
    if world.is_alone:
        assert model is not None, "rank 0 has it"
        return model.to(runtime.device)
    placed = meta_model(config)
    if replicas is not None:
        from pipeline.distributed.fsdp import shard

        shard(placed, runtime, world, replicas)
    placed.to_empty(device=runtime.device)
    load_weights(world, placed, model.state_dict() if model is not None else {})
    return placed
