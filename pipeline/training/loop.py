"""The training loop of the book's chapter 5, its eight steps by name.

    1  for each epoch
    2  for each batch                 Reader.epoch
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

from pipeline.distributed.parallel import parallelize
from pipeline.distributed.shards import WHOLE, Shard
from pipeline.distributed.world import ALONE, World
from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.model.objective import Objective
from pipeline.model.runtime import Runtime, derive_seed
from pipeline.params import EVAL_BATCH, Train
from pipeline.reports import HistoryRow
from pipeline.tokens.windows import Windows
from pipeline.training.average import averaged, decay_at, split
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoint, LoopState, Stored
from pipeline.training.checkpointer import Checkpointer
from pipeline.training.delayed_metrics import DelayedMetrics, StepMetrics
from pipeline.training.evaluation import distributed_loss
from pipeline.training.events import Diverged, Observer, Step
from pipeline.training.precision import WorkingCopy
from pipeline.training.reader import Batch, Reader
from pipeline.training.schedule import learning_rate
from pipeline.training.snapshot import HostCopies, Snapshot, at_rest
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
        best: the evaluation of the lowest validation loss; `best_weights` are its weights, of a
            sharded model this rank's shard, and at the end, also a bad one, whole on rank 0.
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
        shard: Shard = WHOLE,
    ) -> None:
        """
        Args:
            shard: what this rank reads and writes of checkpoints; `WHOLE`: rank 0 does, for all.
        """
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
        self.objective = Objective(
            self.working.model, settings, runtime.device, whole=world.is_alone
        )
        self.parallel = parallelize(world, model, self.objective, shard, sharded=sharded)
        self.batches = batches
        self.reader = Reader(train_windows, batches, runtime.device)
        self.total_steps = total_steps(batches.steps_per_epoch, settings)
        self.step = 0
        self.spikes = SpikeDetector()
        self.metrics = DelayedMetrics(runtime.device, world=world)
        self.meter = Meter(model, runtime, world.size)
        self.history: list[HistoryRow] = []
        self.best: HistoryRow | None = None
        self.best_weights: Snapshot | None = None
        self.copies = HostCopies(runtime.device)
        self.ema_val_loss: float | None = None
        self.last_weights: Snapshot | None = None
        self.last_optimizer: dict[str, Any] = {}
        self.last_average: dict[str, Tensor] = {}

    def run(self) -> None:
        """Train to the end, from the beginning or from where `restore` has put it.

        Raises:
            Diverged: a loss is not finite; on every rank.
        """
        try:
            self.take_steps()
        except Diverged:
            self.keep_best()
            raise

    def take_steps(self) -> None:
        if self.step == 0:
            self.evaluate()
        last = self.settings.gradient_accumulation - 1
        while not self.is_done():
            epoch, first = divmod(self.step, self.batches.steps_per_epoch)
            for batches in self.reader.epoch(epoch, first):
                started = time.perf_counter()
                self.reset_gradients()
                losses = []
                for micro, batch in enumerate(batches):
                    with self.parallel.micro_batch(is_last=micro == last):
                        loss = self.calculate_loss(batch, micro)
                        self.backpropagate(loss)
                    losses.append(loss.detach())
                self.parallel.finish_gradients()
                grad_norm = self.update_weights()
                self.metrics.push(self.step, losses, grad_norm, started)
                self.report_steps(self.metrics.ready())
                if self.evaluates_at(self.step):
                    self.evaluate()
                if self.is_done() or self.samples_at(self.step):
                    self.show_sample()
                self.save_checkpoint()
                if self.is_done():
                    self.keep_last()
                    return

    def reset_gradients(self) -> None:
        self.working.reset_gradients()

    def calculate_loss(self, batch: Batch, micro: int = 0) -> Tensor:
        """One forward pass, the step's `micro`-th; its share of the loss, in nats."""
        torch.manual_seed(derive_seed(self.batches.seed, self.dropout_owner(micro)))
        inputs, targets = (self.runtime.to_device(tensor) for tensor in batch)
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
        self.copies.protect()
        self.optimizer.step()
        self.working.refresh()
        self.step += 1
        return norm

    def clip_gradients(self) -> Tensor | None:
        """The gradient's norm, before it is clipped to `grad_clip`.

        It reads every gradient once more, some hundredths of a step: so it is measured only where
        it is needed, and before evaluations.
        """
        limit = self.settings.grad_clip
        if limit is None and not self.evaluates_at(self.step + 1):
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

    def show_sample(self) -> None:
        model = self.parallel.full_model()
        if model is None:
            return
        if self.settings.sample_every is None:
            epochs = math.ceil(self.step / self.batches.steps_per_epoch)
            self.observer.on_sample("epoch", epochs, model)
        else:
            self.observer.on_sample("step", self.step, model)

    def save_checkpoint(self) -> None:
        """Save a checkpoint, where one is due; at the end the outputs take its place.

        Where one rank still writes the last, none does; rank 0 without a folder has none written.
        """
        if self.step % self.settings.checkpoint_every or self.is_done():
            return
        keeper = self.checkpoints
        if self.world.any(self.world.is_first if keeper is None else keeper.is_writing()):
            return
        self.report_steps(self.metrics.flush())
        assert self.best_weights is not None
        at = self.best_weights.step
        weights, best, optimizer = self.parallel.saved(self.best_weights.tensors, self.optimizer)
        known = self.world.broadcast(keeper.store.checks if keeper is not None else {})
        if keeper is None or not keeper.writes:
            return  # a rank that has only taken part
        keeper.store.checks = known  # rank 0's, of every shard's files
        changing = {"optimizer": optimizer} | ({} if at == self.step else {"weights": weights})
        copies = self.copies.take(changing, at_rest={"best": best})
        checkpoint = Checkpoint(
            step=self.step,
            weights=Snapshot(self.step, copies.get("weights", copies["best"])),
            best=Snapshot(at, copies["best"]),
            optimizer=copies["optimizer"],
            record=LoopState(
                history=tuple(self.history),
                losses=tuple(self.spikes.state()),
                observer=self.observer.state(),
            ),
        )
        keeper.save(checkpoint, self.copies.wait)

    def check(self, stored: Stored) -> None:
        """Look at a checkpoint, on rank 0, before anything is changed by it.

        Raises:
            UserError: it is not one of this training.
        """
        manifest = stored.manifest
        steps = [row.step for row in manifest.record.history]
        if not 0 < manifest.step < self.total_steps or manifest.best_step not in steps:
            raise UserError("its steps are not this training's")
        if steps != sorted(set(steps)) or steps[-1] > manifest.step:
            raise UserError("its history is not in order")
        for number in range(manifest.shards):
            shard = Shard(number, manifest.shards)
            check_weights(stored.parts["weights"][number], self.model, shard)
            check_weights(stored.parts["best"][number], self.model, shard)
            moments = stored.parts["optimizer"][number]
            checked_moments(moments, self.optimizer, self.settings, shard)
        self.observer.restore(manifest.record.observer)

    def restore(self, stored: Stored) -> None:
        """Continue from the checkpoint; rank 0 has the tensors for all, or each rank its own."""
        manifest = stored.manifest
        weights, best, moments = (
            stored.joined(part, self.parallel.shard) for part in ("weights", "best", "optimizer")
        )
        groups = self.optimizer.state_dict()["param_groups"]  # what the settings say
        state = {**moments, "param_groups": groups}
        best = self.parallel.load(weights, best, self.optimizer, state)
        self.best_weights = Snapshot(manifest.best_step, best)
        self.working.refresh()
        self.step = manifest.step
        self.history = list(manifest.record.history)
        self.best = next(row for row in self.history if row.step == manifest.best_step)
        self.spikes = SpikeDetector(manifest.record.losses)
        self.observer.restore(manifest.record.observer)

    def snapshot(self) -> Snapshot:
        """A copy of what this rank keeps of the weights, as they are now.

        The first, at step 0, leaves the GPU's memory to what a training step turns out to need.
        """
        return Snapshot(self.step, at_rest(self.parallel.weights(), may_stay=self.step > 0))

    def keep_last(self) -> None:
        """Keep the last weights, their average and the optimizer's state, whole."""
        self.keep_best()
        whole = self.parallel.gather_weights(self.parallel.weights())
        self.last_weights = Snapshot(self.step, whole)
        self.last_optimizer = self.parallel.gather_optimizer(self.optimizer)
        if self.settings.ema_decay is not None and self.world.is_first:
            self.last_optimizer, self.last_average = split(
                self.last_optimizer, self.optimizer, self.model
            )

    def keep_best(self) -> None:
        """Keep the best weights whole, where a rank has had a shard of them."""
        if self.best_weights is not None:
            whole = self.parallel.gather_weights(self.best_weights.tensors)
            self.best_weights = Snapshot(self.best_weights.step, whole)

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

    def samples_at(self, step: int) -> bool:
        return step % (self.settings.sample_every or self.batches.steps_per_epoch) == 0

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
