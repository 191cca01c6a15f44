"""The optimizer: weight decay on matrices only.

An optimizer is a function that builds it, and an entry in `OPTIMIZERS`, whose keys are what
`train.optimizer` may be. params.py reads them, so this module imports nothing of the project.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Groups = list[dict[str, Any]]  # of parameters, as `Optimizer` takes them


class Settings(Protocol):
    """What optimizers read of the `train` section."""

    @property
    def optimizer(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def build_optimizer(model: nn.Module, settings: Settings) -> Optimizer:
    """The optimizer that the settings name; biases and layer norms do not decay."""
    parameters = list(model.parameters())
    groups = [
        {
            "params": [p for p in parameters if p.dim() >= 2],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[settings.optimizer](groups, settings)


def adamw(groups: Groups, settings: Settings) -> Optimizer:
    """PyTorch's fused AdamW."""
    import torch

    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


OPTIMIZERS: dict[str, Callable[[Groups, Settings], Optimizer]] = {"adamw": adamw}
