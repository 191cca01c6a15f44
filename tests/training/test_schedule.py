"""The learning rate by a table, and the registry of schedules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from pipeline.params import Train
from pipeline.training.schedule import SCHEDULES, learning_rate

ROOT = Path(__file__).parents[2]
COSINE = {"schedule": "cosine", "learning_rate": 1.0, "min_learning_rate": 0.2}

WSD = {**COSINE, "schedule": "wsd"}


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
        ({**WSD, "decay_steps": 4.0}, 6, [1.0, 1.0, 1.0, 0.8, 0.6, 0.4]),
        ({**WSD, "decay_steps": 0.5}, 4, [1.0, 1.0, 1.0, 0.6]),
        ({**WSD, "decay_steps": 2.0, "warmup_steps": 1}, 4, [0.5, 1.0, 1.0, 0.6]),
        ({**WSD, "decay_steps": 0.01}, 3, [1.0, 1.0, 1.0]),
        ({**WSD, "decay_steps": 8.0}, 4, [0.6, 0.5, 0.4, 0.3]),
    ],
)
def test_schedule(settings: dict[str, object], total: int, table: list[float]) -> None:
    train = Train.model_validate(settings)
    rates = [learning_rate(step, total, train) for step in range(total)]
    assert rates == pytest.approx(table, abs=1e-6)


def test_a_schedule_is_a_function_and_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """`train.schedule` takes the registry's keys, and a made-up one follows the warm-up."""
    assert get_args(Train.model_fields["schedule"].annotation) == tuple(SCHEDULES)
    monkeypatch.setitem(SCHEDULES, "sqrt", lambda step, total, settings: total - step)
    settings = Train(warmup_steps=1, learning_rate=1.0).model_copy(update={"schedule": "sqrt"})
    assert [learning_rate(step, 4, settings) for step in range(4)] == [0.5, 3, 2, 1]


def test_params_read_the_schedules_without_torch() -> None:
    program = "import pipeline.params, pipeline.training.optim, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("settings", [COSINE, WSD])
def test_the_rate_reaches_its_floor_just_past_the_end(settings: dict[str, object]) -> None:
    assert learning_rate(10, 10, Train.model_validate(settings)) == pytest.approx(0.2)
