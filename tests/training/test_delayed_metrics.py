"""Metrics that are read a step late, as on CUDA, and what that must not change."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.training.delayed_metrics import DelayedMetrics
from pipeline.training.events import Diverged

CPU = torch.device("cpu")


def share(value: float) -> torch.Tensor:
    return torch.tensor(value)


def test_numbers_are_read_at_once_on_a_cpu() -> None:
    metrics = DelayedMetrics(CPU)
    metrics.push(1, [share(1.5), share(2.0)], share(0.25), started=0.0)
    (step,) = metrics.ready()
    assert (step.step, step.loss, step.grad_norm) == (1, 3.5, 0.25)
    assert not list(metrics.flush())


def test_late_numbers_stay_one_step_behind_until_all_are_asked_for() -> None:
    metrics = DelayedMetrics(CPU, delayed=True)
    ready = []
    for step in (1, 2, 3):
        metrics.push(step, [share(step)], None, started=0.0)
        ready.append([read.step for read in metrics.ready()])
    assert ready == [[], [1], [2]]
    assert [(r.step, r.loss, r.grad_norm) for r in metrics.flush()] == [(3, 3.0, None)]


def test_seconds_add_up_to_the_time_that_passed(monkeypatch) -> None:
    clock = iter([10.0, 13.0, 14.0])
    monkeypatch.setattr("pipeline.training.delayed_metrics.time.perf_counter", lambda: next(clock))
    metrics = DelayedMetrics(CPU, delayed=True)
    for step, started in ((1, 8.0), (2, 8.1), (3, 8.2)):
        metrics.push(step, [share(1.0)], None, started)
    assert [read.seconds for read in metrics.flush()] == [2.0, 3.0, 1.0]


@pytest.fixture
def make_delayed_trainer(make_trainer):
    def make(**settings: object):
        trainer, memory = make_trainer(**settings)
        trainer.metrics = DelayedMetrics(CPU, delayed=True)
        return trainer, memory

    return make


def test_delay_changes_no_history_and_no_weight(make_trainer, make_delayed_trainer) -> None:
    settings = {"epochs": 2, "batch_size": 4, "eval_every": 3, "grad_clip": 1.0}
    (prompt, at_once), (delayed, later) = make_trainer(**settings), make_delayed_trainer(**settings)
    prompt.run()
    delayed.run()
    assert later.evaluations == at_once.evaluations
    assert [(s.step, s.loss, s.grad_norm) for s in later.steps] == [
        (s.step, s.loss, s.grad_norm) for s in at_once.steps
    ]
    assert torch.equal(prompt.model.wte.weight, delayed.model.wte.weight)


def test_a_loss_that_diverges_is_found_a_step_late_with_good_weights(make_delayed_trainer) -> None:
    trainer, memory = make_delayed_trainer(eval_every=4)

    def poison(step) -> None:
        if step.step == 5:  # reported when step 6 has been taken
            trainer.model.ln_f.weight.data.fill_(math.nan)

    memory.on_step = poison
    with pytest.raises(Diverged, match="training loss became nan after step 6"):
        trainer.run()
    assert trainer.step == 8
    assert trainer.history[-1].step == 4
    assert all(torch.isfinite(t).all() for t in trainer.best_weights.tensors.values())
