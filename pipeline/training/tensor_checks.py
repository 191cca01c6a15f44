"""Tensors of a checkpoint, looked at before a model or an optimizer takes them.

Fused kernels believe what they are given: moments of another shape are memory of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.errors import UserError
from pipeline.params import Train
from pipeline.system.text import quoted
from pipeline.training.optim import build_optimizer


def check_weights(found: Any, model: nn.Module) -> None:
    """
    Raises:
        UserError: `found` is not a state dict of this model, on the CPU.
    """
    wanted = model.state_dict()
    _check_names(found, wanted, "tensor")
    for name, tensor in wanted.items():
        _check_tensor(name, found[name], tensor.shape, tensor.dtype)


def check_moments(found: Any, optimizer: Optimizer, settings: Train) -> None:
    """
    Raises:
        UserError: `found` is not a state dict, on the CPU, of this optimizer after a step.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    kept = _kept_by(settings)
    state: Any = found.get("state") if isinstance(found, dict) else None
    _check_names(state, range(len(parameters)), "the state of parameter")
    for number, parameter in enumerate(parameters):
        _check_names(state[number], kept, f"state {number}, tensor")
        for name, like in kept.items():
            shape = parameter.shape if like.dim() else like.shape
            _check_tensor(f"{number}.{name}", state[number][name], shape, like.dtype)


def _kept_by(settings: Train) -> Mapping[str, Tensor]:
    """What the optimizer keeps of a parameter of two dimensions."""
    parameter = nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros(2, 2)
    optimizer = build_optimizer(nn.ParameterList([parameter]), settings)
    optimizer.step()
    state: Mapping[str, Tensor] = optimizer.state[parameter]
    return state


def _check_names(found: Any, wanted: Iterable[Any], what: str) -> None:
    if not isinstance(found, dict):
        raise UserError(f"{what}s are missing")
    for name in set(found) ^ set(wanted):
        raise UserError(f"{what} {quoted(name, 40)} is {'unknown' if name in found else 'missing'}")


def _check_tensor(name: str, found: Any, shape: torch.Size, dtype: torch.dtype) -> None:
    plain = (
        isinstance(found, Tensor) and found.layout == torch.strided and found.device.type == "cpu"
    )
    if not plain or (found.shape, found.dtype) != (shape, dtype) or not found.is_contiguous():
        raise UserError(f"tensor {name} is not {tuple(shape)} of {dtype}")
