"""The training loop of the book's chapter 5, its eight steps by name.

    1  for each epoch
    2  for each batch                 Batches.epoch
    3  reset the gradients            reset_gradients
    4  calculate the loss             calculate_loss
    5  backpropagate                  backpropagate
    6  update the weights             update_weights
    7  report the losses              report_steps, evaluate
    8  show a sample                  show_sample

The loop knows no tracker, no files and no terminal: it notifies an `Observer`. It is a pure
function of the weights it starts from, the windows, the settings and the seed. The order of an
epoch's batches and the dropout of a step are drawn from seeds that name the epoch and the step, so
evaluating more often, sampling, or going on from a checkpoint changes no batch and no weight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from pipeline.distributed.base import load_optimizer, load_weights
from pipeline.distributed.parallel import parallelize
from pipeline.distributed.world import ALONE, World
from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.model.objective import Objective
from pipeline.model.runtime import Runtime, derive_seed
from pipeline.params import EVAL_BATCH, Train
from pipeline.reports import HistoryRow
from pipeline.tokens.windows import Indices, Windows
from pipeline.training.average import averaged, decay_at, split
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoint, LoopState
from pipeline.training.checkpointer import Checkpointer
from pipeline.training.delayed_metrics import DelayedMetrics, StepMetrics
from pipeline.training.evaluation import distributed_loss
from pipeline.training.events import Diverged, Observer, Step
from pipeline.training.precision import WorkingCopy
from pipeline.training.schedule import learning_rate
from pipeline.training.snapshot import Snapshot
from pipeline.training.spikes import SpikeDetector
from pipeline.training.stopping import patience_is_over, total_steps
from pipeline.training.tensor_checks import check_weights, checked_moments
from pipeline.training.throughput import Meter


class Trainer:
    """Trains `model` in place.

    Attributes:
        model: the fp32 weights, which the optimizer updates.
        step: optimizer steps taken.
        history: every evaluation so far.
        best: the evaluation of the lowest validation loss; `best_weights` are its weights.
        ema_val_loss: of the averaged weights, at the last evaluation; None without an average.
        last_weights, last_optimizer, last_average: the weights, the optimizer's state and the
            averaged weights, at the end.
    """

    def __init__(
        self,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        train_windows: Windows,
        val_windows: Windows,
        batches: Batches,
        settings: Train,
        runtime: Runtime,
        observer: Observer,
        checkpoints: Checkpointer | None = None,
        world: World = ALONE,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.train_windows = train_windows
        self.val_windows = val_windows
        self.settings = settings
        self.runtime = runtime
        self.observer = observer
        self.checkpoints = checkpoints
        self.world = world
        sharded = world.shards(settings)
        self.working = WorkingCopy(model, runtime, copies=not sharded)
        self.objective = Objective(self.working.model, settings, runtime.device)
        self.parallel = parallelize(world, model, self.objective, sharded=sharded)
        self.batches = batches
        self.total_steps = total_steps(batches.steps_per_epoch, settings)
        self.step = 0
        self.spikes = SpikeDetector()
        self.metrics = DelayedMetrics(runtime.device, world=world)
        self.meter = Meter(model, runtime, world.size)
        self.history: list[HistoryRow] = []
        self.best: HistoryRow | None = None
        self.best_weights: Snapshot | None = None
        self.ema_val_loss: float | None = None
        self.last_weights: Snapshot | None = None
        self.last_optimizer: dict[str, Any] = {}
        self.last_average: dict[str, Tensor] = {}

    def run(self) -> None:
        """Train to the end, from the beginning or from where `restore` has put it.

        Raises:
            Diverged: a loss is not finite.
        """
        if self.step == 0:
            self.evaluate()
        while not self.is_done():
            epoch, first = divmod(self.step, self.batches.steps_per_epoch)
            for batches in self.batches.epoch(epoch, first):
                started = time.perf_counter()
                self.reset_gradients()
                losses = []
                for micro, batch in enumerate(batches):
                    with self.parallel.micro_batch(is_last=micro == len(batches) - 1):
                        loss = self.calculate_loss(batch, micro)
                        self.backpropagate(loss)
                    losses.append(loss.detach())
                self.parallel.finish_gradients()
                grad_norm = self.update_weights()
                self.metrics.push(self.step, losses, grad_norm, started)
                self.report_steps(self.metrics.ready())
                if self.evaluates_at(self.step):
                    self.evaluate()
                if self.is_done() or self.step % self.batches.steps_per_epoch == 0:
                    self.show_sample(epoch + 1)
                self.save_checkpoint()
                if self.is_done():
                    self.keep_last()
                    return

    def reset_gradients(self) -> None:
        self.working.reset_gradients()

    def calculate_loss(self, indices: Indices, micro: int = 0) -> Tensor:
        """One forward pass, the step's `micro`-th; its share of the loss, in nats."""
        torch.manual_seed(derive_seed(self.batches.seed, self.dropout_owner(micro)))
        inputs, targets = (
            self.runtime.to_device(tensor) for tensor in self.train_windows.batch(indices)
        )
        self.objective.train()
        with self.runtime.autocast():
            loss: Tensor = self.parallel.objective(inputs, targets)
        return loss / self.settings.gradient_accumulation

    def backpropagate(self, loss: Tensor) -> None:
        loss.backward()
        self.working.collect_gradients()

    def update_weights(self) -> Tensor | None:
        """Clip, set this step's learning rate, step; the gradient's norm where it is measured."""
        norm = self.clip_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
            if self.settings.ema_decay is not None:
                group["ema_decay"] = decay_at(self.step, self.settings.ema_decay)
        self.optimizer.step()
        self.working.refresh()
        self.step += 1
        return norm

    def clip_gradients(self) -> Tensor | None:
        """The gradient's norm, before it is clipped to `grad_clip`.

        On a CPU, where reading every gradient once more takes some hundredths of a step, it is
        measured only where it is needed, and before evaluations.
        """
        limit = self.settings.grad_clip
        if (
            limit is None
            and self.runtime.device.type == "cpu"
            and not self.evaluates_at(self.step + 1)
        ):
            return None
        norm = self.parallel.gradient_norm()
        if limit is not None:
            clip_grads_with_norm_(self.model.parameters(), limit, norm)
        return norm

    def evaluate(self) -> None:
        """Measure the validation windows and some fixed training windows, without dropout."""
        self.report_steps(self.metrics.flush())
        with self.parallel.evaluation(), self.runtime.autocast():
            train_loss = self.measure(self.train_windows, self.training_indices())
            val_loss = self.measure(self.val_windows, self.validation_indices())
        self.check_finite(val_loss, "validation", self.step)
        self.check_finite(train_loss, "training", self.step)
        row = HistoryRow(
            step=self.step,
            epoch=self.step / self.batches.steps_per_epoch,
            tokens_seen=self.tokens_seen(),
            train_loss=train_loss,
            val_loss=val_loss,
            learning_rate=self.learning_rate(),
        )
        self.history.append(row)
        if self.best is None or row.val_loss < self.best.val_loss:
            self.best_weights = None  # its memory serves the next snapshot
            self.best, self.best_weights = row, self.snapshot()
        if self.step and self.settings.ema_decay is not None:
            self.ema_val_loss = self.evaluate_average()
        self.observer.on_evaluation(row, self.ema_val_loss)

    def evaluate_average(self) -> float:
        """Measure the validation windows with the averaged weights."""
        with averaged(self.optimizer):
            self.working.refresh()
            with self.parallel.evaluation(), self.runtime.autocast():
                loss = self.measure(self.val_windows, self.validation_indices())
        self.working.refresh()
        return loss

    def measure(self, windows: Windows, indices: range) -> float:
        return distributed_loss(
            self.world,
            self.working.model,
            windows,
            self.batches.batch_size,
            indices,
            pads=self.objective.compiled,
        )

    def report_steps(self, finished: Iterable[StepMetrics]) -> None:
        """Notify the observer of steps; on CUDA their metrics come a step late."""
        for metrics in finished:
            before = metrics.step - 1
            loss = metrics.loss
            self.check_finite(loss, "training", before)
            speed = self.tokens_per_step / metrics.seconds
            step = Step(
                step=metrics.step,
                epoch=metrics.step / self.batches.steps_per_epoch,
                tokens_seen=metrics.step * self.tokens_per_step,
                tokens=self.tokens_per_step,
                seconds=metrics.seconds,
                loss=loss,
                learning_rate=self.learning_rate(before),
                tokens_per_second=speed,
                grad_norm=metrics.grad_norm,
                mfu=self.meter.mfu(speed),
                gpu_memory_megabytes=self.meter.memory_megabytes(),
                loss_spike=loss if self.spikes.is_spike(loss) else None,
            )
            self.observer.on_step(step)

    def show_sample(self, epoch: int) -> None:
        model = self.parallel.full_model()
        if model is not None:
            self.observer.on_epoch(epoch, model)

    def save_checkpoint(self) -> None:
        """Save a checkpoint, where one is due; at the end the outputs take its place."""
        due = self.checkpoints is not None and self.checkpoints.is_due(self.step)
        if self.is_done() or not self.world.any(due):
            return
        self.report_steps(self.metrics.flush())
        assert self.best_weights is not None
        same = self.best_weights.step == self.step
        weights = self.best_weights if same else self.snapshot()
        optimizer = self.parallel.optimizer_state(self.optimizer)
        if self.checkpoints is None:
            return  # a rank that has only taken part in gathering
        self.checkpoints.save(
            weights=weights,
            best=self.best_weights,
            optimizer=optimizer,
            record=LoopState(
                history=tuple(self.history),
                losses=tuple(self.spikes.state()),
                observer=self.observer.state(),
            ),
        )

    def check(self, checkpoint: Checkpoint) -> None:
        """Look at a checkpoint, on rank 0, before anything is changed by it.

        Raises:
            UserError: it is not one of this training.
        """
        steps = [row.step for row in checkpoint.record.history]
        if not 0 < checkpoint.step < self.total_steps or checkpoint.best.step not in steps:
            raise UserError("its steps are not this training's")
        if steps != sorted(set(steps)) or steps[-1] > checkpoint.step:
            raise UserError("its history is not in order")
        check_weights(checkpoint.weights.tensors, self.model)
        check_weights(checkpoint.best.tensors, self.model)
        checked_moments(checkpoint.optimizer, self.optimizer, self.settings)
        self.observer.restore(checkpoint.record.observer)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from the checkpoint; rank 0's holds the tensors for all."""
        load_weights(self.world, self.model, checkpoint.weights.tensors)
        groups = self.optimizer.state_dict()["param_groups"]  # what the settings say
        moments = {**checkpoint.optimizer, "param_groups": groups}
        load_optimizer(self.world, self.model, self.optimizer, moments)
        self.working.refresh()
        self.step = checkpoint.step
        self.history = list(checkpoint.record.history)
        self.best_weights = checkpoint.best
        self.best = next(row for row in self.history if row.step == self.best_weights.step)
        self.spikes = SpikeDetector(checkpoint.record.losses)
        self.observer.restore(checkpoint.record.observer)

    def snapshot(self) -> Snapshot:
        """A copy of the weights as they are now, on rank 0."""
        return Snapshot(self.step, self.parallel.weights())

    def keep_last(self) -> None:
        """Keep the last weights, their average and the optimizer's state; they change no more."""
        self.last_weights = Snapshot(self.step, self.parallel.weights(copy=False))
        self.last_optimizer = self.parallel.optimizer_state(self.optimizer)
        if self.settings.ema_decay is not None and self.world.is_first:
            self.last_optimizer, self.last_average = split(
                self.last_optimizer, self.optimizer, self.model
            )

    def dropout_owner(self, micro: int) -> str:
        """Each rank has dropout of its own, the first as one process does."""
        rank = f"/{self.world.rank}" if self.world.rank else ""
        return f"dropout/{self.step}/{micro}{rank}"

    def is_done(self) -> bool:
        if self.step >= self.total_steps:
            return True
        return patience_is_over(self.history, self.settings.early_stopping)

    def evaluates_at(self, step: int) -> bool:
        return step % self.settings.eval_every == 0 or step == self.total_steps

    def training_indices(self) -> range:
        """The training windows that evaluations measure, whatever the batch size is."""
        return range(min(len(self.train_windows), self.settings.eval_batches * EVAL_BATCH))

    def validation_indices(self) -> range:
        """The validation windows that evaluations measure: all, or some, evenly spread."""
        return self.val_windows.spread(self.settings.eval_windows)

    def learning_rate(self, step: int | None = None) -> float:
        """The rate of step `step`, counted from 0; by default of the one to come."""
        return learning_rate(self.step if step is None else step, self.total_steps, self.settings)

    def tokens_seen(self) -> int:
        return self.step * self.tokens_per_step

    @property
    def tokens_per_step(self) -> int:
        return self.batches.windows_per_step * self.train_windows.context_length

    @property
    def tokens_per_epoch(self) -> int:
        return self.batches.steps_per_epoch * self.tokens_per_step

    def check_finite(self, loss: float, which: str, step: int) -> None:
        if not math.isfinite(loss):
            rate = self.learning_rate(max(step - 1, 0))
            raise Diverged(
                f"train: the {which} loss became {loss} after step {step} "
                f"(epoch {step / self.batches.steps_per_epoch:.2f}, learning rate {rate:g}); "
                "lower train.learning_rate, or set train.grad_clip or train.warmup_steps"
            )
