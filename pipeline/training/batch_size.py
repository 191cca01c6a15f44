"""`train.batch_size: auto`: the largest batch whose training step fits into a CUDA GPU.

Found by trying: a step of a model that is thrown away, with the allocator held to a share of the
GPU's memory. The steps are not compiled, which takes somewhat more memory than compiled ones, so
the answer is on the safe side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch.optim import Optimizer

from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.model.objective import Objective
from pipeline.model.runtime import Runtime
from pipeline.model.start import config_of
from pipeline.params import Params
from pipeline.training.optim import build_optimizer

ROOM = 0.92  # of the GPU's memory; the rest is for fragments and what lies outside the allocator


def with_largest_batch(params: Params, windows: int, runtime: Runtime) -> Params:
    """The params with a number for `train.batch_size: auto`, of at most `windows` per step.

    Raises:
        UserError: the device is no CUDA GPU, or not even one window fits into it.
    """
    if runtime.device.type != "cuda":
        raise UserError(
            "train.batch_size: auto finds the largest batch that fits into a CUDA GPU, and "
            f"train.device is {runtime.device.type} here; give a number"
        )
    settings = params.train.model_copy(update={"batch_size": 1, "compile": False})
    model = GPT(config_of(params.model)).to(runtime.device)
    objective = Objective(model, settings, runtime.device)
    optimizer = build_optimizer(model, settings)
    limit = max(windows // settings.gradient_accumulation, 1)
    with _limited_memory(runtime.device):
        found = largest_batch(objective, optimizer, runtime, limit)
    train = params.train.model_copy(update={"batch_size": found})
    return params.model_copy(update={"train": train})


def largest_batch(objective: Objective, optimizer: Optimizer, runtime: Runtime, limit: int) -> int:
    """The largest batch, of those that are tried, that a step can be taken with.

    Raises:
        UserError: not even one window fits.
    """

    def fits(size: int) -> bool:
        fitted = _step(objective, optimizer, runtime, size)
        optimizer.zero_grad()
        torch.cuda.empty_cache()
        return fitted

    found = largest_that_fits(fits, limit)
    if not found:
        raise UserError(
            "train.batch_size: not one window fits into this GPU; lower model.context_length or "
            "the model's size, or set train.activation_checkpointing: true"
        )
    return found


def largest_that_fits(fits: Callable[[int], bool], limit: int) -> int:
    """The largest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... up to `limit` that `fits`; 0 if none does.

    Few sizes, so that a GPU gives the same answer each time.
    """
    found = 0
    for power in range(limit.bit_length()):
        for size in (2**power, 2**power + 2**power // 2):
            if size <= found or size > limit:
                continue
            if not fits(size):
                return found
            found = size
    return found


def _step(objective: Objective, optimizer: Optimizer, runtime: Runtime, size: int) -> bool:
    """Take a training step on `size` windows of zeros; whether there was memory for it."""
    shape = size, objective.model.config.context_length
    try:
        tokens = torch.zeros(shape, dtype=torch.int64, device=runtime.device)
        with runtime.autocast():
            loss = objective.train()(tokens, tokens)
        loss.backward()
        optimizer.step()
    except torch.OutOfMemoryError:
        return False
    return True


@contextmanager
def _limited_memory(device: torch.device) -> Iterator[None]:
    """Hold the allocator to `ROOM` of the GPU's memory inside; the trials count as no peak."""
    torch.cuda.set_per_process_memory_fraction(ROOM, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.reset_peak_memory_stats(device)
