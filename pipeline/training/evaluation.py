"""The loss protocol, its windows shared among the processes of a training."""

from __future__ import annotations

import torch

from pipeline.distributed.world import World
from pipeline.model.gpt import GPT
from pipeline.model.perplexity import measure, window_losses
from pipeline.tokens.windows import Windows


def shared_loss(
    world: World, model: GPT, windows: Windows, batch_size: int, indices: range | None = None
) -> float:
    """`measure(...).loss`, each rank doing its share; the same bits on every rank.

    All ranks run the model equally often, as a sharded model wants it: one that has no windows
    left runs the first again, and does not count it.
    """
    chosen = range(len(windows)) if indices is None else indices
    if world.is_alone:
        return measure(model, windows, batch_size, indices=chosen).loss
    nats, mine = 0.0, chosen[world.rank :: world.size]
    size = max(1, batch_size // world.size)
    for start in range(0, -(-len(chosen) // world.size), size):
        batch = mine[start : start + size]
        losses = window_losses(model, windows, batch or chosen[:1])
        nats += float(losses.sum(dtype=torch.float64)) if batch else 0.0
    return world.total(nats)[0] / (len(chosen) * windows.context_length)
