"""AdamW with decay on matrices only."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.params import Train


def build_optimizer(model: nn.Module, settings: Train) -> torch.optim.AdamW:
    """Fused AdamW; biases and layer norms do not decay."""
    parameters = list(model.parameters())
    groups = [
        {
            "params": [p for p in parameters if p.dim() >= 2],
            "weight_decay": settings.weight_decay,
        },
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
