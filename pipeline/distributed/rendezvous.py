"""How the ranks of a world find each other, and find out that one is gone.

A rank that dies is noticed by the others at once, in the collective that they wait in: its
connections close. Which one it was, and why, the connection does not tell; a `Meeting` does.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline.distributed.world import World
from pipeline.errors import UserError
from pipeline.system.process import Process, Terminated

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import Store

# The others wait so long where one samples, compiles or reads a checkpoint.
PATIENCE = timedelta(minutes=15)
GRACE = 10  # seconds that torchrun's other ranks leave to rank 0, to end the run first


class RankLost(UserError):
    """Another process of the training is gone; the steps since the checkpoint are lost."""


class Meeting:
    """What ranks know of each other where nobody tells them: torchrun's.

    Attributes:
        store: through which they find each other; None: where torchrun says.
    """

    store: Store | None = None

    def __init__(self) -> None:
        self._others: list[tuple[int, Process]] = []

    def wait_for_all(self, world: World) -> None:
        """Before joining: until every rank is about to."""

    def greet(self, world: World) -> None:
        """After joining: learn who the others are. A collective."""
        import torch.distributed as dist

        found: list[Any] = [None] * world.size
        dist.all_gather_object(found, Process.current())
        self._others = [(rank, found[rank]) for rank in range(world.size) if rank != world.rank]

    def loss(self, *, is_sure: bool) -> str | None:
        """Which rank is gone, as far as this process knows; `is_sure` that one is."""
        for rank, process in self._others:
            if process.is_alive() is False:
                return f"rank {rank} of {len(self._others) + 1} (process {process.pid}) is gone"
        return "the connection to a rank on another machine is gone" if is_sure else None


@contextmanager
def joined(world: World, device: torch.device, meeting: Meeting | None = None) -> Iterator[None]:
    """Inside the block this process is one of the world's; with no `meeting`, as torchrun says.

    Raises:
        RankLost: the others are not there, or one of them is lost inside the block.
    """
    if world.is_alone:
        yield
        return
    import torch
    import torch.distributed as dist

    meeting = meeting or Meeting()
    meeting.wait_for_all(world)
    options: dict[str, Any] = {}
    if meeting.store is not None:
        options = {"store": meeting.store, "rank": world.rank, "world_size": world.size}
    nccl = device.type == "cuda"
    if nccl:
        torch.cuda.set_device(device)
    with _loss_in_words(world, meeting):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            timeout=PATIENCE,
            device_id=device if nccl else None,
            **options,
        )
        try:
            meeting.greet(world)
            yield
            dist.barrier()  # nobody hangs up while another still listens
        finally:
            dist.destroy_process_group()


@contextmanager
def after_rank_0() -> Iterator[None]:
    """Where torchrun ends all ranks, let the first go first: it has a run to end.

    The others would seem to be lost otherwise. They end when its connection closes.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _loss_in_words(world: World, meeting: Meeting) -> Iterator[None]:
    """Turn what PyTorch raises when a peer is gone into a sentence.

    Where torchrun has noticed it first, SIGTERM stands for the same.
    """
    try:
        yield
    except (RuntimeError, Terminated) as error:
        known = meeting.loss(is_sure=_is_of_connections(error))
        if known is None:
            raise
        if meeting.store is None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from torchrun, while the run is ended
        raise RankLost(
            f"train: {known}; all {world.size} processes end, and the next start goes on from the "
            "last checkpoint"
        ) from error


def _is_of_connections(error: BaseException) -> bool:
    """gloo raises a bare RuntimeError that begins with the place in its transport's source."""
    import torch.distributed as dist

    text = str(error)
    said = "gloo/transport" in text or "Connection closed by peer" in text
    return said or isinstance(error, dist.DistError)
