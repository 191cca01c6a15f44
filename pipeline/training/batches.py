"""Which windows each optimizer step sees: the book's batches, in a new order each epoch.

The order of an epoch is drawn from a seed that names the epoch, so a training that goes on at
step k needs no generator's state. Windows left over after an epoch's last whole step wait for
another epoch, as in the book.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.params import Train
from pipeline.runtime import derive_seed


class Batches:
    """The steps of a training over `windows` windows.

    Attributes:
        windows_per_step: `batch_size` x `gradient_accumulation`.
        steps_per_epoch: whole steps in an epoch.
    """

    def __init__(self, windows: int, settings: Train, seed: int) -> None:
        """
        Raises:
            UserError: an epoch would hold no step.
        """
        self._windows, self._seed = windows, seed
        self._batch_size = settings.batch_size
        self.windows_per_step = settings.batch_size * settings.gradient_accumulation
        self.steps_per_epoch = windows // self.windows_per_step
        if not self.steps_per_epoch:
            raise UserError(
                f"train.batch_size: {settings.batch_size} x gradient_accumulation "
                f"{settings.gradient_accumulation} asks for {self.windows_per_step} windows a "
                f"step, but the training split holds {windows}"
            )

    def epoch(self, epoch: int, first: int = 0) -> Iterator[list[Tensor]]:
        """An epoch's steps from its `first` on, each a list of index batches to accumulate."""
        generator = torch.Generator().manual_seed(derive_seed(self._seed, f"batches/{epoch}"))
        order = torch.randperm(self._windows, generator=generator)
        for step in range(first, self.steps_per_epoch):
            start = step * self.windows_per_step
            yield list(order[start : start + self.windows_per_step].split(self._batch_size))
