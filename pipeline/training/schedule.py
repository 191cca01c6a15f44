"""The learning rate, as a pure function of the step.

A schedule is a function of a step after the warm-up, and an entry in `SCHEDULES`, whose keys are
what `train.schedule` may be. params.py reads them, so this module imports nothing of the project.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol


class Settings(Protocol):
    """What schedules read of the `train` section."""

    @property
    def schedule(self) -> str: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def min_learning_rate(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def decay_steps(self) -> float: ...


def learning_rate(step: int, total_steps: int, settings: Settings) -> float:
    """The rate of optimizer step `step`, counted from 0.

    A linear warm-up over `warmup_steps` steps reaches the peak at step `warmup_steps` and never
    starts at 0. Then comes the schedule.
    """
    warmup = settings.warmup_steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    return SCHEDULES[settings.schedule](step, total_steps, settings)


def constant(step: int, total_steps: int, settings: Settings) -> float:
    """The peak, `learning_rate`."""
    return settings.learning_rate


def cosine(step: int, total_steps: int, settings: Settings) -> float:
    """Half a cosine from the end of the warm-up on.

    It would reach `min_learning_rate` at step `total_steps`, one past the last.
    """
    warmup = settings.warmup_steps
    progress = (step - warmup) / max(total_steps - warmup, 1)
    return _between(settings, 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def wsd(step: int, total_steps: int, settings: Settings) -> float:
    """Warm-up, stable, decay: linear over the last `decay_steps`, to where `cosine` ends."""
    given = settings.decay_steps
    decay = round(given * total_steps) if given < 1 else int(given)
    return _between(settings, min(max(total_steps - step, 0) / max(decay, 1), 1.0))


SCHEDULES: dict[str, Callable[[int, int, Settings], float]] = {
    "constant": constant,
    "cosine": cosine,
    "wsd": wsd,
}


def _between(settings: Settings, share: float) -> float:
    """The rate at a share of the way from `min_learning_rate` up to the peak."""
    peak, floor = settings.learning_rate, settings.min_learning_rate
    return floor + (peak - floor) * share
