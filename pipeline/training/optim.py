"""AdamW with decay on matrices only, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from pipeline.params import Train


def learning_rate(step: int, total_steps: int, settings: Train) -> float:
    """The rate of optimizer step `step`, counted from 0.

    A linear warm-up over `warmup_steps` steps reaches the peak at step `warmup_steps` and never
    starts at 0; then the rate is constant, or a half cosine from the peak down towards
    `min_learning_rate`, which it would reach at step `total_steps`.
    """
    peak, floor, warmup = (
        settings.learning_rate,
        settings.min_learning_rate,
        settings.warmup_steps,
    )
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return peak
    progress = (step - warmup) / max(total_steps - warmup, 1)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


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
