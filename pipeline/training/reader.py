"""A training's batches as tensors, in order: read by a thread, one ahead, where that pays.

On CUDA, where the thread also pins them, so that they are sent while the GPU computes; and where
the tokens do not fit into memory, so that the disk is waited for while a step computes. Elsewhere a
batch takes some ten microseconds from the page cache, less than handing it over between threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import psutil
import torch
from torch import Tensor

from pipeline.tokens.windows import TOKEN, Indices, Windows
from pipeline.training.batches import Batches

Batch = tuple[Tensor, Tensor]  # inputs and targets, (B, T) each


class Reader:
    """Reads the windows of `batches`, in their order."""

    def __init__(self, windows: Windows, batches: Batches, device: torch.device) -> None:
        self.windows = windows
        self.batches = batches
        self.device = device
        size = len(windows.tokens) * TOKEN.itemsize
        self.ahead = device.type == "cuda" or size > psutil.virtual_memory().total // 2

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Iterator[Batch]]:
        """An epoch's steps from its `first` on, each the batches to accumulate.

        Raises:
            UserError: a shard can no longer be read.
        """
        steps = self.batches.epoch(epoch, first)
        indices = (batch for step in steps for batch in step)
        read = self._read_ahead(indices) if self.ahead else map(self.windows.batch, indices)
        for _ in range(first, self.batches.steps_per_epoch):
            yield islice(read, self.batches.windows_per_step // self.batches.batch_size)

    def _read_ahead(self, indices: Iterator[Indices]) -> Iterator[Batch]:
        """The batches; while one is in use, the thread reads the next."""
        with ThreadPoolExecutor(1, "lossbook-reader", initializer=self._use_device) as thread:
            coming: Future[Batch] | None = None
            for batch in indices:
                before, coming = coming, thread.submit(self._read, batch)
                if before is not None:
                    yield before.result()
            if coming is not None:
                yield coming.result()

    def _use_device(self) -> None:
        """A thread begins with the first GPU, which pinning would wake."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def _read(self, indices: Indices) -> Batch:
        inputs, targets = self.windows.batch(indices)
        if self.device.type == "cuda":
            return inputs.pin_memory(), targets.pin_memory()
        return inputs, targets
