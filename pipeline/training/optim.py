"""AdamW with decay on matrices only, begun anew or with the moments of an earlier training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.model.saved import OPTIMIZER
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


def starting_optimizer(
    optimizer: torch.optim.Optimizer,
    folder: Path | None,
    wanted: Literal["auto", "fresh", "restored"] = "auto",
) -> bool:
    """Load the state that lies beside the first weights, where it is wanted and there.

    Raises:
        UserError: it must be restored and is not there, or it is not this model's.
    """
    path = folder / OPTIMIZER if folder is not None else None
    if path is None or not path.is_file():
        if wanted == "restored":
            where = "names no folder" if folder is None else f"leads to {folder}"
            raise UserError(
                f"train.init_optimizer: restored asked for, but train.init_from {where} with "
                f"{OPTIMIZER}"
            )
        return False
    if wanted == "fresh":
        return False
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        rates = [group["lr"] for group in optimizer.param_groups]
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
    except Exception as error:  # torch raises many types for a damaged or foreign file
        raise UserError(f"{path}: not this model's optimizer state ({error})") from None
    for group, rate, decay in zip(optimizer.param_groups, rates, decays, strict=True):
        group.update(lr=rate, weight_decay=decay)  # what params.yaml says now
    return True
