"""When a training ends, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.params import Train
from pipeline.reports import HistoryRow


def total_steps(steps_per_epoch: int, settings: Train) -> int:
    """Optimizer steps of the whole training: `max_steps`, or else those of `epochs`."""
    return settings.max_steps or settings.epochs * steps_per_epoch


def patience_is_over(history: Sequence[HistoryRow], patience: int | None) -> bool:
    """Whether the last `patience` evaluations all failed to lower the validation loss."""
    if patience is None or not history:
        return False
    losses = [row.val_loss for row in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience
