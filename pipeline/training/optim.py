"""The optimizer: weight decay on matrices only.

An optimizer is a function that builds it and an entry in `OPTIMIZERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # names can be looked up in OPTIMIZERS without waiting for torch
    from torch import nn
    from torch.optim import Optimizer

    from pipeline.params import Train

Groups = list[dict[str, Any]]  # of parameters, as `Optimizer` takes them


def build_optimizer(model: nn.Module, settings: Train, name: str = "adamw") -> Optimizer:
    """The optimizer `name` of `OPTIMIZERS`; biases and layer norms do not decay."""
    parameters = list(model.parameters())
    groups = [
        {
            "params": [p for p in parameters if p.dim() >= 2],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[name](groups, settings)


def adamw(groups: Groups, settings: Train) -> Optimizer:
    """PyTorch's fused AdamW."""
    import torch

    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


OPTIMIZERS: dict[str, Callable[[Groups, Train], Optimizer]] = {"adamw": adamw}
