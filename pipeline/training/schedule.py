"""When a training ends, and its learning rate, as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.params import Train
from pipeline.training.events import Evaluation


def total_steps(steps_per_epoch: int, settings: Train) -> int:
    """Optimizer steps of the whole training: `max_steps`, or else those of `epochs`."""
    return settings.max_steps or settings.epochs * steps_per_epoch


def patience_is_over(history: Sequence[Evaluation], patience: int | None) -> bool:
    """Whether the last `patience` evaluations all failed to lower the validation loss."""
    if patience is None or not history:
        return False
    losses = [evaluation.val_loss for evaluation in history]
    return len(losses) - 1 - losses.index(min(losses)) >= patience


def learning_rate(step: int, total_steps: int, settings: Train) -> float:
    """The rate of optimizer step `step`, counted from 0.

    A linear warm-up over `warmup_steps` steps reaches the peak at step `warmup_steps` and never
    starts at 0. Then comes the schedule; `cosine` and `wsd` would reach `min_learning_rate` at
    step `total_steps`, one past the last.
    """
    peak, floor, warmup = (
        settings.learning_rate,
        settings.min_learning_rate,
        settings.warmup_steps,
    )
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "cosine":
        progress = (step - warmup) / max(total_steps - warmup, 1)
        return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    decay = _decay_steps(total_steps, settings.decay_steps)
    left = min(max(total_steps - step, 0) / max(decay, 1), 1.0)
    return floor + (peak - floor) * left


def _decay_steps(total_steps: int, given: float) -> int:
    """Of warm-up, stable, decay: how long is the decay."""
    return round(given * total_steps) if given < 1 else int(given)
