"""What a training tells while it runs, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import UserError
from pipeline.model.gpt import GPT


@dataclass(frozen=True)
class Step:
    """One optimizer step: its number from 1, and what it was like.

    Attributes:
        grad_norm: before clipping; None where it was not measured.
        mfu: the share of the hardware's peak that the model's FLOPs are; None where unknown.
        memory: the most bytes that tensors have taken on the GPU; None elsewhere.
        is_spike: whether the loss is far above those before it (`spikes`).
    """

    step: int
    epoch: float
    tokens_seen: int
    tokens: int
    loss: float
    learning_rate: float
    grad_norm: float | None
    seconds: float
    is_spike: bool = False
    mfu: float | None = None
    memory: int | None = None


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
    """Hears of a training, as it happens.

    A training that goes on from a checkpoint tells again what lay between that and the kill.
    """

    def on_step(self, step: Step) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None: ...
    def on_epoch(self, epoch: int, model: GPT) -> None: ...

    def state(self) -> Any:
        """What it has to remember after a kill, as JSON."""

    def restore(self, state: Any) -> None:
        """Take back what `state` gave when the checkpoint was made."""


class Silent:
    """Tells nobody: the observer of every rank but the first."""

    def on_step(self, step: Step) -> None: ...
    def on_evaluation(self, evaluation: Evaluation) -> None: ...
    def on_epoch(self, epoch: int, model: GPT) -> None: ...
    def state(self) -> None: ...
    def restore(self, state: Any) -> None: ...


class Diverged(UserError):
    """The loss is NaN or infinite; the trainer still holds its `best_weights`."""
