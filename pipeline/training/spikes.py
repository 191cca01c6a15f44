"""Loss spikes: a training loss far above what the last steps would let one expect."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from statistics import median

WINDOW = 64  # steps looked back at
ENOUGH = 16  # steps before anything can be called unusual
WIDTH = 8.0  # robust standard deviations
LEAST = 0.5  # nats; where losses hardly differ, a small rise is no spike
NORMAL = 1.4826  # median absolute deviation to standard deviation, for a normal distribution


class SpikeDetector:
    """Decides whether a step's loss is a spike: more than `WIDTH` robust standard deviations, and
    more than `LEAST` nats, above the median of the last `WINDOW` losses.

    Medians, so that one spike does not hide the next.
    """

    def __init__(self, losses: Iterable[float] = ()) -> None:
        self._losses = deque(losses, maxlen=WINDOW)

    def is_spike(self, loss: float) -> bool:
        """Judge a loss by those before it, and remember it."""
        before = self._losses.copy()
        self._losses.append(loss)
        if len(before) < ENOUGH:
            return False
        middle = median(before)
        deviation = NORMAL * median(abs(other - middle) for other in before)
        return loss - middle > max(WIDTH * deviation, LEAST)

    def state(self) -> list[float]:
        """What a detector must be made with to go on."""
        return list(self._losses)
