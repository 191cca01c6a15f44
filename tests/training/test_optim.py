"""The schedule by a table, and which parameters decay."""

from __future__ import annotations

import pytest
import torch

from pipeline.model.gpt import GPT
from pipeline.params import Train
from pipeline.training.optim import build_optimizer, learning_rate

COSINE = {"schedule": "cosine", "learning_rate": 1.0, "min_learning_rate": 0.2}


@pytest.mark.parametrize(
    ("settings", "total", "table"),
    [
        ({"learning_rate": 0.5}, 3, [0.5, 0.5, 0.5]),
        ({"learning_rate": 0.5, "warmup_steps": 0}, 1, [0.5]),
        ({"learning_rate": 0.8, "warmup_steps": 3}, 5, [0.2, 0.4, 0.6, 0.8, 0.8]),
        (COSINE, 4, [1.0, 0.882843, 0.6, 0.317157]),
        ({**COSINE, "warmup_steps": 1}, 5, [0.5, 1.0, 0.882843, 0.6, 0.317157]),
        ({**COSINE, "warmup_steps": 9}, 3, [0.1, 0.2, 0.3]),
        (COSINE, 1, [1.0]),
    ],
)
def test_schedule(settings: dict[str, object], total: int, table: list[float]) -> None:
    train = Train.model_validate(settings)
    rates = [learning_rate(step, total, train) for step in range(total)]
    assert rates == pytest.approx(table, abs=1e-6)


def test_the_rate_reaches_its_floor_just_past_the_end() -> None:
    assert learning_rate(10, 10, Train.model_validate(COSINE)) == pytest.approx(0.2)


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
