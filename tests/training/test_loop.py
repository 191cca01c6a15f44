"""The loop: what it learns, what it reports, and what must not change it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import UserError
from pipeline.model.perplexity import measure
from pipeline.model.runtime import Runtime
from pipeline.params import Train
from pipeline.training.batches import Batches
from pipeline.training.events import Diverged


def weights(trainer) -> dict[str, torch.Tensor]:
    return trainer.model.state_dict()


def same(first, second) -> bool:
    return all(
        torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items()
    )


def test_has_a_pulse(make_trainer) -> None:
    trainer, memory = make_trainer(epochs=30)
    trainer.run()
    assert memory.evaluations[0].train_loss == pytest.approx(math.log(64), rel=0.05)
    assert memory.evaluations[-1].train_loss < 0.5


def test_reports_every_step_evaluation_and_epoch(make_trainer) -> None:
    trainer, memory = make_trainer(epochs=2, batch_size=4, eval_every=3)
    trainer.run()
    assert [step.step for step in memory.steps] == list(range(1, 11))
    assert [e.step for e in memory.evaluations] == [0, 3, 6, 9, 10]
    assert memory.samples == ["epoch 1", "epoch 2"]
    last = memory.evaluations[-1]
    assert (last.epoch, last.tokens_seen) == (2.0, 10 * 4 * 8)
    assert memory.steps[4].epoch == 1.0
    assert all(step.tokens == 32 for step in memory.steps)
    assert trainer.history == memory.evaluations


def test_best_is_the_lowest_validation_loss_with_its_weights(make_trainer) -> None:
    trainer, memory = make_trainer(epochs=20, batch_size=4)
    trainer.run()
    assert trainer.best == min(memory.evaluations, key=lambda e: e.val_loss)
    assert trainer.best.step < trainer.step  # reversed text: validation gets worse
    assert not torch.equal(trainer.best_weights.tensors["wte.weight"], trainer.model.wte.weight)
    trainer.model.load_state_dict(trainer.best_weights.tensors)
    trainer.working.refresh()
    trainer.evaluate()
    assert trainer.history[-1].val_loss == trainer.best.val_loss


def test_the_seed_decides_everything(make_trainer) -> None:
    (first, one), (second, two), (third, _) = (make_trainer(seed=s) for s in (5, 5, 6))
    for trainer in (first, second, third):
        trainer.run()
    assert same(first, second)
    assert one.evaluations == two.evaluations
    assert not same(first, third)


def test_evaluating_or_drawing_numbers_changes_no_weight(make_trainer) -> None:
    often, memory = make_trainer(eval_every=1, eval_batches=3)
    seldom, _ = make_trainer(eval_every=1000)
    memory.on_step = lambda step: torch.rand(step.step)  # someone draws from the global generator
    often.run()
    seldom.run()
    assert same(often, seldom)


def test_an_evaluation_may_look_at_some_windows_evenly_spread(make_trainer) -> None:
    some, memory = make_trainer(eval_windows=2)
    assert (len(some.val_windows), list(some.validation_indices())) == (5, [0, 3])
    some.evaluate()
    picked = measure(some.model, some.val_windows, 2, indices=range(0, 5, 3))
    assert memory.evaluations[0].val_loss == picked.loss
    for most in (None, 5, 99):
        assert list(make_trainer(eval_windows=most)[0].validation_indices()) == list(range(5))


@pytest.mark.parametrize(("batches", "windows"), [(1, 2), (3, 6), (99, 20)])
def test_evaluations_look_at_the_same_training_windows_whatever_the_batch_size(
    make_trainer, batches: int, windows: int
) -> None:
    expected = None
    for batch_size in (1, 2, 5):
        trainer, memory = make_trainer(batch_size=batch_size, eval_batches=batches)
        trainer.evaluate()
        expected = expected or measure(
            trainer.model, trainer.train_windows, 2, indices=range(windows)
        )
        assert memory.evaluations[0].train_loss == pytest.approx(expected.loss, rel=1e-6)


def test_every_window_once_an_epoch_in_another_order(make_trainer) -> None:
    trainer, _ = make_trainer(batch_size=2, gradient_accumulation=2)
    epochs = [
        np.concatenate([b for step in trainer.batches.epoch(e) for b in step]) for e in (0, 1)
    ]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(20))
    assert epochs[0].tolist() != epochs[1].tolist()


def test_left_over_windows_wait(make_trainer) -> None:
    trainer, _ = make_trainer(batch_size=3)
    steps = list(trainer.batches.epoch(0))
    assert [len(batch) for (batch,) in steps] == [3] * 6


def test_accumulation_is_the_larger_batch(make_trainer, config) -> None:
    still = replace(config, dropout=0.0)
    large, _ = make_trainer(still, batch_size=4)
    small, _ = make_trainer(still, batch_size=1, gradient_accumulation=4)
    large.run()
    small.run()
    for name, tensor in weights(large).items():
        torch.testing.assert_close(weights(small)[name], tensor, rtol=1e-3, atol=1e-4)


def test_muon_takes_the_same_steps_whatever_the_settings(make_trainer, config) -> None:
    """Clipping to a norm that is never reached, and computing twice, change no bit."""
    still, few = replace(config, dropout=0.0), {"optimizer": "muon", "max_steps": 4}
    (plain, _), (clipped, _), (twice, _), (small, _) = (
        make_trainer(still, **few, **settings)
        for settings in (
            {"batch_size": 4},
            {"batch_size": 4, "grad_clip": 1e9},
            {"batch_size": 4, "activation_checkpointing": True},
            {"batch_size": 1, "gradient_accumulation": 4},
        )
    )
    for trainer in (plain, clipped, twice, small):
        trainer.run()
    assert same(plain, clipped)
    assert same(plain, twice)
    assert small.history[-1].val_loss == pytest.approx(plain.history[-1].val_loss, rel=1e-3)


def test_micro_batches_of_a_step_have_dropout_of_their_own(make_trainer, config) -> None:
    trainer, _ = make_trainer(replace(config, dropout=0.5))
    window = trainer.train_windows.batch([0])
    losses = {trainer.calculate_loss(window, micro).item() for micro in range(3)}
    assert len(losses) == 3


@pytest.mark.parametrize("accumulation", [1, 3])
def test_bf16_learns_as_fp32_does(make_trainer, accumulation: int) -> None:
    settings = {"epochs": 10, "gradient_accumulation": accumulation, "batch_size": 2}
    exact, _ = make_trainer(**settings)
    rounded, _ = make_trainer(runtime=Runtime(torch.device("cpu"), bf16=True), **settings)
    exact.run()
    rounded.run()
    assert rounded.history[-1].train_loss == pytest.approx(exact.history[-1].train_loss, abs=0.1)
    assert rounded.model.h[0].mlp.c_fc.weight.dtype == torch.float32


def test_the_norm_is_measured_before_evaluations_also_without_clipping(make_trainer) -> None:
    (plain, few), (clipped, each) = (
        make_trainer(eval_every=3, epochs=1, **clip) for clip in ({}, {"grad_clip": 1e9})
    )
    plain.run()
    clipped.run()
    norms = {step.step: step.grad_norm for step in few.steps if step.grad_norm is not None}
    assert list(norms) == [3, 6, 9, 10]
    assert norms == {step.step: step.grad_norm for step in each.steps if step.step in norms}
    assert same(plain, clipped)


def test_max_steps_ends_within_an_epoch(make_trainer) -> None:
    trainer, memory = make_trainer(max_steps=13, epochs=1)
    trainer.run()
    assert memory.steps[-1].step == memory.evaluations[-1].step == 13
    assert memory.samples == ["epoch 1", "epoch 2"]  # the second is not whole


def test_samples_by_steps_and_at_the_end_change_no_weight(make_trainer) -> None:
    trainer, memory = make_trainer(max_steps=13, sample_every=5)
    trainer.run()
    assert memory.samples == ["step 5", "step 10", "step 13"]
    by_epochs, _ = make_trainer(max_steps=13)
    by_epochs.run()
    assert same(trainer, by_epochs)
    once, memory = make_trainer(max_steps=10, sample_every=10)
    once.run()
    assert memory.samples == ["step 10"]


def test_early_stopping_ends_at_the_evaluation_that_lost_patience(make_trainer) -> None:
    trainer, memory = make_trainer(epochs=50, batch_size=4, early_stopping=2, learning_rate=0.03)
    trainer.run()
    losses = [e.val_loss for e in memory.evaluations]
    assert len(losses) - 1 - losses.index(min(losses)) == 2
    assert trainer.step < trainer.total_steps
    assert memory.evaluations[-1].step == memory.steps[-1].step == trainer.step


def test_a_spike_is_reported(make_trainer) -> None:
    trainer, memory = make_trainer(epochs=3)

    def disturb(step) -> None:
        if step.step == 20:
            trainer.model.lm_head.weight.data.mul_(-9)
        on_step(step)

    on_step, memory.on_step = memory.on_step, disturb
    trainer.run()
    assert next(step.step for step in memory.steps if step.loss_spike is not None) == 21


def test_clipping_bounds_the_norm_and_reports_it(make_trainer) -> None:
    trainer, memory = make_trainer(grad_clip=1e-3)
    trainer.run()
    assert all(step.grad_norm is not None and step.grad_norm > 1e-3 for step in memory.steps)


def test_divergence_stops_with_one_line_and_good_weights(make_trainer) -> None:
    trainer, memory = make_trainer(eval_every=2)

    def poison(step) -> None:
        if step.step == 5:
            trainer.model.ln_f.weight.data.fill_(math.nan)

    memory.on_step = poison
    with pytest.raises(Diverged, match=r"training loss became nan after step 5.*learning_rate"):
        trainer.run()
    assert trainer.history[-1].step == 4
    assert all(torch.isfinite(t).all() for t in trainer.best_weights.tensors.values())


def test_too_few_windows_for_a_step() -> None:
    with pytest.raises(UserError, match=r"train\.batch_size: 8 x gradient_accumulation 2.*holds 9"):
        Batches(9, Train(batch_size=8, gradient_accumulation=2), seed=1)


def test_processes_share_each_batch_and_miss_no_window() -> None:
    settings = Train(batch_size=6, gradient_accumulation=2)
    alone = list(Batches(50, settings, seed=1).epoch(3, first=1))
    ranks = [
        list(Batches(50, settings, 1, rank, processes=3).epoch(3, first=1)) for rank in (0, 1, 2)
    ]
    for step, shares in zip(alone, zip(*ranks, strict=True), strict=True):
        for batch, parts in zip(step, zip(*shares, strict=True), strict=True):
            assert [len(part) for part in parts] == [2, 2, 2]
            assert set(np.concatenate(parts)) == set(batch)


def test_a_batch_that_cannot_be_shared_equally_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.batch_size: 4 .* 3 processes \(train\.processes"):
        Batches(50, Train(batch_size=4), seed=1, processes=3)
