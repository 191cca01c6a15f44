"""Which windows each optimizer step sees: the book's batches, in a new order each epoch.

The order of an epoch is drawn from a seed that names the epoch, so a training that goes on at
step k needs no generator's state. Windows left over after an epoch's last whole step wait for
another epoch, as in the book. Several processes divide every batch among them: the batches are
the same however many there are, and none holds more of the order than it asks for.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import UserError
from pipeline.model.runtime import derive_seed
from pipeline.numbers import counted
from pipeline.params import Train
from pipeline.tokens.order import Indices, epoch_order


class Batches:
    """The steps of a training over `windows` windows, as process `rank` of `processes` sees them.

    Attributes:
        seed: the run's.
        batch_size: windows in a forward pass, all processes together.
        windows_per_step: `batch_size` x `gradient_accumulation`.
        steps_per_epoch: whole steps in an epoch.
    """

    def __init__(
        self, windows: int, settings: Train, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        """
        Raises:
            UserError: an epoch would hold no step, or the processes cannot share a batch equally.
        """
        assert settings.batch_size != "auto", "TrainingJob.open finds a number"
        self._windows, self.seed = windows, seed
        self._rank, self._processes = rank, processes
        self.batch_size = settings.batch_size
        self.windows_per_step = settings.batch_size * settings.gradient_accumulation
        self.steps_per_epoch = windows // self.windows_per_step
        if settings.batch_size % processes:
            raise UserError(
                f"train.batch_size: {counted(settings.batch_size, 'window')} cannot be shared "
                f"equally by {processes} processes (train.processes, or torchrun's); make it a "
                "multiple"
            )
        if not self.steps_per_epoch:
            raise UserError(
                f"train.batch_size: {settings.batch_size} x gradient_accumulation "
                f"{settings.gradient_accumulation} asks for "
                f"{counted(self.windows_per_step, 'window')} a step, but the training split "
                f"holds {windows}"
            )

    def epoch(self, epoch: int, first: int = 0) -> Iterator[list[Indices]]:
        """An epoch's steps from its `first` on, each a list of index batches to accumulate."""
        order = epoch_order(self._windows, derive_seed(self.seed, f"batches/{epoch}"))
        for step in range(first, self.steps_per_epoch):
            start = step * self.windows_per_step
            yield [
                order.take(at + self._rank, at + self.batch_size, self._processes)
                for at in range(start, start + self.windows_per_step, self.batch_size)
            ]
