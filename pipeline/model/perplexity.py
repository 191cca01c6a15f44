"""The loss protocol, the same for every model.

Non-overlapping windows from the start of the split, targets shifted by one; the loss is the sum
of nats over all target tokens divided by their number, never a mean of batch means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pipeline.model.gpt import GPT
from pipeline.model.loss import token_losses
from pipeline.reports import Losses
from pipeline.tokens.windows import Windows


def measure(
    model: GPT,
    windows: Windows,
    batch_size: int,
    *,
    indices: range | None = None,
    progress: Callable[[int], object] | None = None,
) -> Losses:
    """The model's loss over `windows`, or over those that `indices` names.

    Consumes no randomness and leaves the model in the mode it came in. `progress` is told the
    number of windows done after each batch.
    """
    chosen = range(len(windows)) if indices is None else indices
    nats, target_bytes = 0.0, 0
    for start in range(0, len(chosen), batch_size):
        batch = chosen[start : start + batch_size]
        nats += float(window_losses(model, windows, batch).sum(dtype=torch.float64))
        target_bytes += windows.target_bytes(batch)
        if progress is not None:
            progress(len(batch))
    tokens = len(chosen) * windows.context_length
    loss = nats / tokens
    return Losses.model_construct(  # unchecked: a training that diverges has no finite loss
        loss=loss,
        perplexity=math.exp(loss) if loss < 700 else math.inf,
        bits_per_byte=nats / math.log(2) / max(target_bytes, 1),
        tokens=tokens,
        windows=len(chosen),
    )


def window_losses(model: GPT, windows: Windows, indices: range) -> Tensor:
    """Nats for each target token of the windows `indices`, float32 (B, T), on the CPU."""
    inputs, targets = windows.batch(indices)
    device = model.wte.weight.device
    with torch.no_grad(), evaluating(model):
        hidden = model.hidden(inputs.to(device))  # (B, T, C)
        head, classes = model.padded_head_weight, model.config.vocab_size
        return token_losses(hidden, head, targets.to(device), classes=classes).cpu()


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """Switch dropout off inside the block."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
