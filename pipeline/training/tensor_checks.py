"""Tensors of a training, looked at before a model or an optimizer takes them.

Fused kernels believe what they are given: moments of another shape are memory of others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.distributed.shards import WHOLE, Shard
from pipeline.errors import UserError
from pipeline.model.tensors import plain
from pipeline.params import Train
from pipeline.system.text import quoted
from pipeline.training.optim import build_optimizer

Moments = dict[int, dict[str, Tensor]]  # by the parameter's number


def check_weights(found: Any, model: nn.Module, shard: Shard = WHOLE) -> None:
    """
    Raises:
        UserError: `found` is not a state dict of this model, or a shard of one, on the CPU.
    """
    wanted = model.state_dict()
    _check_names("tensor ", found, wanted)
    for name, like in wanted.items():
        plain(f"tensor {name}", found[name], shard.shape(like.shape), (like.dtype,), "the model")


def checked_moments(
    found: Any, optimizer: Optimizer, settings: Train, shard: Shard = WHOLE
) -> Moments:
    """The `state` in `found`, a state dict or a shard of one, if it is of this optimizer after a
    step.

    Raises:
        UserError: it is not, or does not lie on the CPU; names the tensor.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = _kept_by(settings)
    state: Any = found.get("state") if isinstance(found, dict) else None
    _check_names("the state of parameter ", state, range(len(parameters)))
    moments: Moments = {}
    for number, parameter in enumerate(parameters):
        _check_names(f"tensor state.{number}.", state[number], kept)
        moments[number] = {
            name: plain(
                f"tensor state.{number}.{name}",
                state[number][name],
                shard.shape(parameter.shape) if like.dim() else (),
                (like.dtype,),
                "the model",
            )
            for name, like in kept.items()
        }
    return moments


def _kept_by(settings: Train) -> dict[str, Tensor]:
    """What the optimizer keeps of a (2, 2) parameter after a step."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.grad = torch.zeros(2, 2)
    optimizer = build_optimizer(layer, settings)
    optimizer.step()
    return dict(optimizer.state[layer.weight])


def _check_names(what: str, found: Any, wanted: Iterable[Any]) -> None:
    found = found if isinstance(found, dict) else {}
    for name in sorted(set(found) ^ set(wanted), key=str):
        shown = name if name in wanted else quoted(name, 40)
        raise UserError(f"{what}{shown} is {'unknown' if name in found else 'missing'}")
