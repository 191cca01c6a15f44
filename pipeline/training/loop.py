"""The training loop of the book's chapter 5, its eight steps by name.

The loop knows no tracker, no files and no terminal: it tells an `Observer` what happened. It is a
pure function of the weights it starts from, the windows, the settings and the seed. The order of
an epoch's batches and the dropout of a step are drawn from seeds that name the epoch and the
step, so evaluating more often, or sampling, changes no batch and no weight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from pipeline.data.loader import Windows
from pipeline.errors import UserError
from pipeline.evaluation.perplexity import measure
from pipeline.model.gpt import GPT
from pipeline.model.loss import mean_loss
from pipeline.params import Train
from pipeline.runtime import Runtime, derive_seed
from pipeline.training.optim import learning_rate
from pipeline.training.precision import WorkingCopy


@dataclass(frozen=True)
class Step:
    """One optimizer step: its number from 1, and what it was like."""

    step: int
    epoch: float
    tokens_seen: int
    tokens: int
    loss: float
    learning_rate: float
    grad_norm: float | None
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Losses after `step` optimizer steps; a row of `history.csv`. Step 0 is untrained."""

    step: int
    epoch: float
    tokens_seen: int
    train_loss: float
    val_loss: float
    learning_rate: float


class Observer(Protocol):
    """What a training tells, as it happens."""

    def on_step(self, step: Step) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None: ...
    def on_epoch(self, epoch: int, model: GPT) -> None: ...


class Diverged(UserError):
    """The loss is NaN or infinite; the trainer still holds `last_good` weights."""


class Trainer:
    """Trains `model` in place.

    Attributes:
        model: the fp32 weights, which the optimizer updates.
        history: every evaluation so far.
        best: the evaluation of the lowest validation loss; `best_weights` are its weights.
        last_good: weights of the last evaluation whose losses were finite.
    """

    def __init__(
        self,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        train_windows: Windows,
        val_windows: Windows,
        settings: Train,
        seed: int,
        runtime: Runtime,
        observer: Observer,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.train_windows = train_windows
        self.val_windows = val_windows
        self.settings = settings
        self.seed = seed
        self.runtime = runtime
        self.observer = observer
        self.working = WorkingCopy(model, runtime)
        self.windows_per_step = settings.batch_size * settings.gradient_accumulation
        self.steps_per_epoch = steps_per_epoch(len(train_windows), settings)
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.step = 0
        self.history: list[Evaluation] = []
        self.best: Evaluation | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.last_good: dict[str, Tensor] = {}

    def run(self) -> None:
        """Train to the end.

        Raises:
            Diverged: a loss is not finite.
        """
        self.evaluate()
        for epoch in range(self.settings.epochs):
            for batches in self.steps_of(epoch):
                started = time.perf_counter()
                self.reset_gradients()
                loss = sum(
                    self.calculate_loss_and_backpropagate(batch, micro)
                    for micro, batch in enumerate(batches)
                )
                grad_norm = self.update_weights()
                self.tell_step(float(loss), grad_norm, time.perf_counter() - started)
                if self.step % self.settings.eval_every == 0 or self.step == self.total_steps:
                    self.evaluate()
            self.observer.on_epoch(epoch + 1, self.model)

    def steps_of(self, epoch: int) -> Iterator[list[Tensor]]:
        """An epoch's optimizer steps: each a list of `gradient_accumulation` index batches.

        All windows in a new order each epoch; those left over after the last whole step wait for
        another epoch, as in the book.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, f"batches/{epoch}"))
        order = torch.randperm(len(self.train_windows), generator=generator)
        for step in range(self.steps_per_epoch):
            start = step * self.windows_per_step
            yield list(order[start : start + self.windows_per_step].split(self.settings.batch_size))

    def reset_gradients(self) -> None:
        self.working.reset_gradients()

    def calculate_loss_and_backpropagate(self, indices: Tensor, micro: int = 0) -> float:
        """One forward and backward pass, the step's `micro`-th; its share of the loss, in nats."""
        torch.manual_seed(derive_seed(self.seed, f"dropout/{self.step}/{micro}"))
        inputs, targets = (
            tensor.to(self.runtime.device, non_blocking=True)
            for tensor in self.train_windows.batch(indices.numpy())
        )
        model = self.working.model.train()
        with self.runtime.autocast():
            loss = mean_loss(model.hidden(inputs), model.head_weight, targets)
        loss = loss / self.settings.gradient_accumulation
        self.check_finite(loss.detach(), "training")
        loss.backward()
        self.working.collect_gradients()
        return float(loss.detach())

    def update_weights(self) -> float | None:
        """Clip, set this step's learning rate, step; the gradient's norm where it is clipped."""
        norm = None
        if self.settings.grad_clip is not None:
            norm = float(clip_grad_norm_(self.model.parameters(), self.settings.grad_clip))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.working.refresh()
        self.step += 1
        return norm

    def evaluate(self) -> None:
        """Measure the whole validation split and `eval_batches` fixed training batches."""
        settings = self.settings
        looked_at = min(len(self.train_windows), settings.eval_batches * settings.batch_size)
        with self.runtime.autocast():
            train = measure(
                self.working.model,
                self.train_windows,
                settings.batch_size,
                indices=range(looked_at),
            )
            val = measure(self.working.model, self.val_windows, settings.batch_size)
        self.check_finite(torch.tensor(val.loss), "validation")
        evaluation = Evaluation(
            step=self.step,
            epoch=self.step / self.steps_per_epoch,
            tokens_seen=self.tokens_seen(),
            train_loss=train.loss,
            val_loss=val.loss,
            learning_rate=self.learning_rate(),
        )
        self.history.append(evaluation)
        self.last_good = snapshot(self.model, self.last_good)
        if self.best is None or evaluation.val_loss < self.best.val_loss:
            self.best = evaluation
            self.best_weights = snapshot(self.model, self.best_weights)
        self.observer.on_evaluation(evaluation)

    def tell_step(self, loss: float, grad_norm: float | None, seconds: float) -> None:
        self.observer.on_step(
            Step(
                step=self.step,
                epoch=self.step / self.steps_per_epoch,
                tokens_seen=self.tokens_seen(),
                tokens=self.tokens_per_step,
                loss=loss,
                learning_rate=self.learning_rate(self.step - 1),
                grad_norm=grad_norm,
                seconds=seconds,
            )
        )

    def learning_rate(self, step: int | None = None) -> float:
        """The rate of step `step`, counted from 0; by default of the one to come."""
        return learning_rate(self.step if step is None else step, self.total_steps, self.settings)

    def tokens_seen(self) -> int:
        return self.step * self.tokens_per_step

    @property
    def tokens_per_step(self) -> int:
        return self.windows_per_step * self.train_windows.context_length

    @property
    def tokens_per_epoch(self) -> int:
        return self.steps_per_epoch * self.tokens_per_step

    def check_finite(self, loss: Tensor, which: str) -> None:
        if not math.isfinite(float(loss)):
            rate = self.learning_rate(max(self.step - 1, 0))
            raise Diverged(
                f"train: the {which} loss became {float(loss)} after step {self.step} "
                f"(epoch {self.step / self.steps_per_epoch:.2f}, learning rate {rate:g}); "
                "lower train.learning_rate, or set train.grad_clip or train.warmup_steps"
            )


def steps_per_epoch(windows: int, settings: Train) -> int:
    """Whole optimizer steps in an epoch.

    Raises:
        UserError: an epoch would hold none.
    """
    wanted = settings.batch_size * settings.gradient_accumulation
    if windows < wanted:
        raise UserError(
            f"train.batch_size: {settings.batch_size} x gradient_accumulation "
            f"{settings.gradient_accumulation} asks for {wanted} windows a step, but the "
            f"training split holds {windows}"
        )
    return windows // wanted


@torch.no_grad()
def snapshot(model: GPT, into: dict[str, Tensor]) -> dict[str, Tensor]:
    """The model's weights on the CPU, over the earlier snapshot `into` where there is one."""
    state = model.state_dict()
    if not into:
        return {name: tensor.to("cpu", copy=True) for name, tensor in state.items()}
    for name, tensor in state.items():
        into[name].copy_(tensor)
    return into
