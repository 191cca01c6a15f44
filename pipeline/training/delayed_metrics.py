"""Numbers of a step on their way from the device, read when they have arrived.

On CUDA reading a number waits for everything queued before it. A step's numbers are therefore
copied to pinned memory behind the step and read after the next one has been queued, so that the
device is never idle for a reading. Elsewhere they are read at once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """A step's numbers.

    Attributes:
        step: counted from 1.
        loss: the sum of the micro-batches' shares, nats.
        grad_norm: None where it was not measured.
        seconds: what the step took.
    """

    step: int
    loss: float
    grad_norm: float | None
    seconds: float


@dataclass
class _Flight:
    step: int
    numbers: Tensor  # on the host: shares of the loss, then the norm where there is one
    has_norm: bool
    started: float
    arrival: torch.cuda.Event | None


class Readings:
    """The steps whose numbers have not been read yet."""

    def __init__(self, device: torch.device, late: bool | None = None) -> None:
        """
        Args:
            late: whether a step's numbers are read after the next step; by default on CUDA.
        """
        self._device = device
        self._late = device.type == "cuda" if late is None else late
        self._flights: deque[_Flight] = deque()
        self._landed = 0.0  # when the last one did

    def send(self, step: int, losses: list[Tensor], norm: Tensor | None, started: float) -> None:
        """Start the numbers of a step that began at `started` on their way to the host."""
        parts = [loss.detach() for loss in losses] + ([norm] if norm is not None else [])
        numbers = torch.stack(parts)
        arrival = None
        if self._device.type == "cuda":
            numbers = numbers.to("cpu", non_blocking=True)  # into pinned memory
            arrival = torch.cuda.Event()
            arrival.record(torch.cuda.current_stream(self._device))  # not the first GPU's
        self._flights.append(_Flight(step, numbers, norm is not None, started, arrival))

    def landed(self) -> Iterator[Reading]:
        """Those that can be read without waiting for the device: on CUDA all but the last."""
        while len(self._flights) > int(self._late):
            yield self._land()

    def all(self) -> Iterator[Reading]:
        """Those that are left, waited for."""
        while self._flights:
            yield self._land()

    def _land(self) -> Reading:
        flight = self._flights.popleft()
        if flight.arrival is not None:
            flight.arrival.synchronize()
        numbers = flight.numbers.tolist()
        norm = numbers.pop() if flight.has_norm else None
        # a step that was queued while the one before it ran began when that one ended
        began, self._landed = max(flight.started, self._landed), time.perf_counter()
        return Reading(flight.step, sum(numbers), norm, self._landed - began)
