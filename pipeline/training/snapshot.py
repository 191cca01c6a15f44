"""Weights and optimizer states at rest: copies on the CPU that training on does not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Snapshot:
    """A model's weights after `step` optimizer steps, on the CPU; never changed again."""

    step: int
    tensors: dict[str, Tensor]


@torch.no_grad()
def copied(value: Any, into: Any = None) -> Any:
    """A copy of nested dictionaries, lists and tuples, tensors on the CPU.

    Args:
        into: an earlier copy of the like, whose tensors are written over: memory that is mapped
            already takes a copy at three times the speed.
    """
    if isinstance(value, Tensor):
        if isinstance(into, Tensor) and (into.shape, into.dtype) == (value.shape, value.dtype):
            return into.copy_(value)
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        earlier = into if isinstance(into, dict) else {}
        return {key: copied(inner, earlier.get(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value))
    return value
