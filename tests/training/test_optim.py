"""Which parameters decay, and by which optimizer."""

from __future__ import annotations

import torch

from pipeline.model.gpt import GPT
from pipeline.params import Train
from pipeline.training.optim import build_optimizer


def test_only_matrices_decay(config) -> None:
    model = GPT(config)
    optimizer = build_optimizer(model, Train(weight_decay=0.3))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.3 if parameter.dim() == 2 else 0.0), name
    assert len(decay) == len(list(model.parameters()))


def test_the_optimizer_is_pytorchs_fused_adamw(config) -> None:
    optimizer = build_optimizer(GPT(config), Train())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["fused"]
