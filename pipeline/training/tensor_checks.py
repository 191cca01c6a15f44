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
from pipeline.model.gpt import GPT, GPTConfig
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
    parameters = [
        (p, kept)
        for group, kept in zip(optimizer.param_groups, _kept_by(settings), strict=True)
        for p in group["params"]
    ]
    state: Any = found.get("state") if isinstance(found, dict) else None
    _check_names("the state of parameter ", state, range(len(parameters)))
    moments: Moments = {}
    for number, (parameter, kept) in enumerate(parameters):
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


def _kept_by(settings: Train) -> list[dict[str, Tensor]]:
    """What the optimizer keeps after a step of a parameter of each group, by a tiny model's."""
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=2, context_length=2, vocab_size=2))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = build_optimizer(model, settings)
    optimizer.step()
    return [dict(optimizer.state[group["params"][0]]) for group in optimizer.param_groups]


def _check_names(what: str, found: Any, wanted: Iterable[Any]) -> None:
    found = found if isinstance(found, dict) else {}
    for name in sorted(set(found) ^ set(wanted), key=str):
        shown = name if name in wanted else quoted(name, 40)
        raise UserError(f"{what}{shown} is {'unknown' if name in found else 'missing'}")
