"""Which parameters decay, and by which optimizer."""

from __future__ import annotations

import torch

from pipeline.model.gpt import GPT
from pipeline.params import Train
from pipeline.training.optim import OPTIMIZERS, build_optimizer


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


def test_an_optimizer_is_a_function_and_an_entry(config, monkeypatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "sgd", lambda groups, _: torch.optim.SGD(groups, lr=0.5))
    settings = Train(weight_decay=0.3).model_copy(update={"optimizer": "sgd"})
    optimizer = build_optimizer(GPT(config), settings)
    assert isinstance(optimizer, torch.optim.SGD)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
