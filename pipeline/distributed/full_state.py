"""Full states scattered from rank 0 to all ranks, and gathered, by `torch.distributed.checkpoint`.

It goes parameter by parameter; rank 0 needs the memory for the full state, on the CPU, and the
others for a parameter. All functions are collectives, and work on replicated models as on sharded.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from pipeline.distributed.world import World
from pipeline.model.gpt import GPT

GATHER = StateDictOptions(full_state_dict=True, cpu_offload=True)
SCATTER = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def scatter_weights(world: World, model: GPT, weights: dict[str, Tensor]) -> None:
    """Load the state dict that rank 0 gives."""
    given: dict[str, Any] = dict(weights) if world.is_first else {}
    set_model_state_dict(model, given, options=SCATTER)


def scatter_optimizer(
    world: World, model: GPT, optimizer: Optimizer, state: dict[str, Any]
) -> None:
    """Load the state, in the form of `Optimizer.state_dict`, that rank 0 gives."""
    given: dict[str, Any] = {}
    if world.is_first:
        names = dict(enumerate(_names(model, optimizer)))
        given = _renamed(state, names)
    set_optimizer_state_dict(model, optimizer, given, options=SCATTER)


def gather_weights(model: GPT) -> dict[str, Tensor]:
    """The state dict, on the CPU of rank 0; empty on the others."""
    return cast(dict[str, Tensor], get_model_state_dict(model, options=GATHER))


def gather_optimizer(model: GPT, optimizer: Optimizer) -> dict[str, Any]:
    """`Optimizer.state_dict` of the full model, on the CPU of rank 0; empty on the others."""
    gathered = get_optimizer_state_dict(model, optimizer, options=GATHER)
    if not gathered:
        return {}
    numbers = {name: number for number, name in enumerate(_names(model, optimizer))}
    return _renamed(cast(dict[str, Any], gathered), numbers)


def _names(model: GPT, optimizer: Optimizer) -> list[str]:
    """Each parameter's name, in the order in which the optimizer numbers them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _renamed(state: dict[str, Any], keys: dict[Any, Any]) -> dict[str, Any]:
    """The optimizer's state under other names of its parameters, in the order of `keys`."""
    groups = [
        {**group, "params": [keys[key] for key in group["params"]]}
        for group in state["param_groups"]
    ]
    values = {new: state["state"][old] for old, new in keys.items() if old in state["state"]}
    return {"state": values, "param_groups": groups}
