"""The loss protocol, the same for every model.

Non-overlapping windows from the start of the split, targets shifted by one; the loss is the sum
of nats over all target tokens divided by their number, never a mean of batch means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.model.gpt import GPT
from pipeline.model.loss import token_losses
from pipeline.model.runtime import Runtime
from pipeline.numbers import perplexity
from pipeline.reports import Losses
from pipeline.tokens.windows import Windows


def measure(
    model: GPT,
    windows: Windows,
    batch_size: int,
    *,
    indices: range | None = None,
    keep: Callable[[npt.NDArray[np.float32]], object] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Losses:
    """The model's loss over `windows`, or over those that `indices` names.

    Consumes no randomness and leaves the model in the mode it came in.

    Args:
        keep: called with each batch's nats for each target, (B, T).
        progress: called with the number of windows done after each batch.
    """
    chosen = range(len(windows)) if indices is None else indices
    nats = total_nats(model, windows, batch_size, chosen, keep, progress)
    return losses_of(nats, windows, chosen, batch_size)


def losses_of(nats: float, windows: Windows, indices: range, batch_size: int) -> Losses:
    """The losses of so many nats for all target tokens of the windows `indices`."""
    target_bytes = sum(windows.target_bytes(batch) for batch in batches(indices, batch_size))
    tokens = len(indices) * windows.context_length
    loss = nats / tokens
    return Losses(
        loss=loss,
        perplexity=perplexity(loss),
        bits_per_byte=nats / math.log(2) / max(target_bytes, 1),
        tokens=tokens,
        windows=len(indices),
    )


def total_nats(
    model: GPT,
    windows: Windows,
    batch_size: int,
    indices: range,
    keep: Callable[[npt.NDArray[np.float32]], object] | None = None,
    progress: Callable[[int], object] | None = None,
    *,
    pads: bool = False,
) -> float:
    """The sum of the losses, in nats, of all target tokens of the windows `indices`.

    Args:
        pads: whether the model always gets `batch_size` windows, of which some do not count.
    """
    nats: list[Tensor] = []  # of each batch, read at the end: a GPU is waited for once
    for batch in batches(indices, batch_size):
        losses = window_losses(model, windows, batch, batch_size if pads else 0)
        nats.append(losses.sum(dtype=torch.float64))
        if keep is not None:
            keep(losses.cpu().numpy())
        if progress is not None:
            progress(len(batch))
    total = 0.0
    for of_batch in torch.stack(nats).tolist() if nats else []:
        total += of_batch  # in turn: `sum` compensates from Python 3.12 on
    return total


def batches(indices: range, batch_size: int) -> list[range]:
    return [indices[at : at + batch_size] for at in range(0, len(indices), batch_size)]


def window_losses(model: GPT, windows: Windows, indices: range, least: int = 0) -> Tensor:
    """Nats for each target token of the windows `indices`, float32 (B, T), on the model's device,
    or on the CPU for MPS.

    Args:
        least: so many windows the model gets at least; what is missing are zeros.
    """
    inputs, targets = windows.batch(indices)
    runtime = Runtime(model.wte.weight.device, bf16=False)
    if len(inputs) < least:
        inputs = F.pad(inputs, (0, 0, 0, least - len(inputs)))
    with torch.no_grad(), evaluating(model):
        hidden = model.hidden(runtime.to_device(inputs))[: len(targets)]  # (B, T, C)
        head, classes = model.padded_head_weight, model.config.vocab_size
        losses = token_losses(hidden, head, runtime.to_device(targets), classes=classes)
    return losses.cpu() if losses.is_mps else losses  # MPS has no float64 to sum in


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """Switch dropout off inside the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
