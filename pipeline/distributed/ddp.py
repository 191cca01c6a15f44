"""PyTorch's DistributedDataParallel: gradients are summed while the backward pass goes on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch.nn.parallel import DistributedDataParallel

from pipeline.distributed.base import Parallel
from pipeline.distributed.world import World
from pipeline.model.objective import Objective


class Replicated(Parallel):
    """A model that every process holds whole, wrapped by DDP."""

    def __init__(self, world: World, objective: Objective) -> None:
        super().__init__(world, objective.model, objective)
        device = self.master.wte.weight.device
        self._replica = DistributedDataParallel(
            objective,
            device_ids=[device.index] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )
        self.objective = self._replica

    def micro_batch(self, *, is_last: bool) -> AbstractContextManager[object]:
        return nullcontext() if is_last else self._replica.no_sync()

    def finish_gradients(self) -> None:
        pass
