"""`train.ema_decay`: an exponential moving average of the weights, kept by the optimizer.

It is one more tensor of each parameter's state (`optim`), so whatever carries moments carries it:
ranks, shards, checkpoints. The step to the next average is PyTorch's (`torch.optim.swa_utils`).

In a short training an average that starts from the first weights would be mostly those. So the
decay grows up to the one that is asked for, as in TensorFlow's and diffusers' averages: with
(1 + t) / (10 + t), where t is -1 in the first step, whose average is its weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.training.optim import AVERAGE


def decay_at(step: int, decay: float) -> float:
    """The decay after `step` earlier steps: 0 in the first, `decay` at last."""
    return min(decay, step / (9 + step))


@contextmanager
def averaged(optimizer: Optimizer) -> Iterator[None]:
    """Inside, the parameters hold their averages; afterwards what they held before, bit by bit."""
    _exchange(optimizer)
    try:
        yield
    finally:
        _exchange(optimizer)


@torch.no_grad()
def _exchange(optimizer: Optimizer) -> None:
    for weight, state in optimizer.state.items():
        average = state[AVERAGE]
        if type(average) is Tensor:
            weight.data, state[AVERAGE] = average, weight.data
        else:  # a shard, which FSDP2 looks for where it is
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)


def split(
    state_dict: dict[str, Any], optimizer: Optimizer, model: nn.Module
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `Optimizer.state_dict` gave, without the averages, and these in a model's state dict."""
    state = state_dict["state"]
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    numbers = {id(parameter): number for number, parameter in enumerate(parameters)}
    averages = {name: state[numbers[id(p)]][AVERAGE].cpu() for name, p in model.named_parameters()}
    moments = {
        number: {name: tensor for name, tensor in tensors.items() if name != AVERAGE}
        for number, tensors in state.items()
    }
    return {**state_dict, "state": moments}, averages
