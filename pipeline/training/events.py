"""What happens in a training, and who observes it.

A field of `Step` or `HistoryRow` that MLflow shows carries its metric's name (`metrics_of`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.reports import HistoryRow

Unit = Literal["epoch", "step"]


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        step: counted from 1.
        tokens_seen: since the beginning; `tokens` are this step's.
        loss: nats per token.
        grad_norm: before clipping; None where it was not measured.
        mfu: model FLOPs as a share of the hardware's peak; None where that is unknown.
        gpu_memory_megabytes: the most that tensors have taken on the GPU; None elsewhere.
        loss_spike: the loss, where it is far above those before it (`spikes`).
    """

    step: int
    epoch: float
    tokens_seen: int
    tokens: int
    seconds: float
    loss: float = field(metadata={"metric": "train/loss"})
    learning_rate: float = field(metadata={"metric": "train/learning_rate"})
    tokens_per_second: float = field(metadata={"metric": "train/tokens_per_second"})
    grad_norm: float | None = field(metadata={"metric": "train/grad_norm"})
    mfu: float | None = field(metadata={"metric": "train/mfu"})
    gpu_memory_megabytes: float | None = field(metadata={"metric": "train/gpu_memory_megabytes"})
    loss_spike: float | None = field(metadata={"metric": "train/loss_spike"})


def metrics_of(event: Step | HistoryRow, kind: str = "metric") -> dict[str, float]:
    """The values of the fields that name a metric of this kind, by that name, without None."""
    return {
        f.metadata[kind]: value
        for f in fields(event)
        if kind in f.metadata and (value := getattr(event, f.name)) is not None
    }


class Observer(Protocol):
    """Is called as a training goes on.

    A training that goes on from a checkpoint repeats what lay between that and the kill.
    """

    def on_step(self, step: Step) -> None: ...
    def on_evaluation(self, row: HistoryRow, ema_val_loss: float | None = None) -> None:
        """`ema_val_loss` is of the averaged weights, where there are any."""

    def on_sample(self, unit: Unit, number: int, model: GPT) -> None:
        """After so many epochs or steps, as `train.sample_every` counts, or at the end."""

    def state(self) -> Any:
        """What it has to remember after a kill, as JSON."""

    def restore(self, state: Any) -> None:
        """Take back what `state` returned when the checkpoint was made."""


class NullObserver:
    """Ignores everything: the observer of every rank but the first."""

    def on_step(self, step: Step) -> None: ...
    def on_evaluation(self, row: HistoryRow, ema_val_loss: float | None = None) -> None: ...
    def on_sample(self, unit: Unit, number: int, model: GPT) -> None: ...
    def state(self) -> None: ...
    def restore(self, state: Any) -> None: ...


class Diverged(UserError):
    """The loss is NaN or infinite; the trainer still holds its `best_weights`."""
