"""A step's metrics, read from the device once they are ready.

On CUDA reading a number waits for everything queued before it. A step's numbers are therefore
copied to pinned memory behind the step and read after the next one has been queued, so that the
device never waits for it. Elsewhere they are read at once. Ranks add up their losses on the device
too, behind the step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.distributed.world import ALONE, World


@dataclass(frozen=True)
class StepMetrics:
    """A step's numbers.

    Attributes:
        step: counted from 1.
        loss: the sum of the micro-batches' shares, the mean over the ranks; nats per token.
        grad_norm: None where it was not measured.
        seconds: what the step took.
    """

    step: int
    loss: float
    grad_norm: float | None
    seconds: float


@dataclass
class _Pending:
    step: int
    numbers: Tensor  # on the host: shares of the loss, then the norm where there is one
    has_norm: bool
    started: float
    copied: torch.cuda.Event | None


class DelayedMetrics:
    """A queue of the steps whose metrics have not been read yet."""

    def __init__(
        self, device: torch.device, delayed: bool | None = None, world: World = ALONE
    ) -> None:
        """
        Args:
            delayed: whether a step's metrics are read after the next step; by default on CUDA.
        """
        self._device, self._world = device, world
        self._delayed = device.type == "cuda" if delayed is None else delayed
        self._queue: deque[_Pending] = deque()
        self._last_read = 0.0

    def push(self, step: int, losses: list[Tensor], norm: Tensor | None, started: float) -> None:
        """Start to copy the numbers of a step that began at `started` to the host. A collective."""
        numbers = torch.stack([loss.detach() for loss in losses])
        self._world.add_up(numbers)
        if norm is not None:
            numbers = torch.cat([numbers, norm[None]])
        copied = None
        if self._device.type == "cuda":
            numbers = numbers.to("cpu", non_blocking=True)  # into pinned memory
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(self._device))  # not the first GPU's
        self._queue.append(_Pending(step, numbers, norm is not None, started, copied))

    def ready(self) -> Iterator[StepMetrics]:
        """Those that can be read without waiting for the device: on CUDA all but the last."""
        while len(self._queue) > int(self._delayed):
            yield self._read()

    def flush(self) -> Iterator[StepMetrics]:
        """Those that are left, waited for."""
        while self._queue:
            yield self._read()

    def _read(self) -> StepMetrics:
        pending = self._queue.popleft()
        if pending.copied is not None:
            pending.copied.synchronize()
        numbers = pending.numbers.tolist()
        norm = numbers.pop() if pending.has_norm else None
        # a step that was queued while the one before it ran began when that one ended
        began, self._last_read = max(pending.started, self._last_read), time.perf_counter()
        loss = sum(numbers) / self._world.size
        return StepMetrics(pending.step, loss, norm, self._last_read - began)
