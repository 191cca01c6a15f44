"""The loss protocol, its windows shared among the processes of a training."""

from __future__ import annotations

from pipeline.distributed.world import World
from pipeline.model.gpt import GPT
from pipeline.model.perplexity import total_nats, window_losses
from pipeline.tokens.windows import Windows


def distributed_loss(
    world: World, model: GPT, windows: Windows, batch_size: int, indices: range, *, pads: bool
) -> float:
    """Nats per token over the windows `indices`, each rank computing its share; equal on each.

    Args:
        pads: whether each forward pass has this rank's share of `batch_size` windows.
    """
    mine = indices[world.rank :: world.size]
    size = max(1, batch_size // world.size)
    nats = total_nats(model, windows, size, mine, pads=pads)
    if -(-len(mine) // size) < -(-len(indices[:: world.size]) // size):
        # As often as rank 0 runs the model, which a sharded one needs; it does not count.
        window_losses(model, windows, indices[:1], size if pads else 0)
    return world.total(nats)[0] / (len(indices) * windows.context_length)
