"""How ranks form a process group, and how they find out that one of them is lost.

A rank that dies is noticed by the others at once, in the collective that they wait in: its
connections close. The connection does not say which rank it was, or why; a `Rendezvous` does.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from pipeline.distributed.world import World
from pipeline.errors import UserError
from pipeline.system.process import Process, Terminated

# The others wait so long where one samples, compiles or reads a checkpoint.
TIMEOUT = timedelta(minutes=15)
POLL = 0.02  # seconds
ENDING = 1.0  # seconds between a broken connection and the end of who held it, at most
GRACE = 10  # seconds that torchrun's other ranks leave to rank 0, to end the run first


class RankLost(UserError):
    """Another process of the training is gone; the steps since the checkpoint are lost."""


class Rendezvous:
    """How a rank finds the others, and what it knows of them; this one under torchrun.

    Attributes:
        store: PyTorch's key-value store of the ranks; None: the one that torchrun names.
    """

    store: Store | None = None

    def __init__(self) -> None:
        self._others: list[tuple[int, Process]] = []

    def wait_for_all(self, world: World) -> None:
        """Before the process group is made: wait until every rank is about to join."""

    def exchange_processes(self, world: World) -> None:
        """Once the process group is made: learn every rank's process. A collective."""
        found: list[Any] = [None] * world.size
        dist.all_gather_object(found, Process.current())
        self._others = [(rank, found[rank]) for rank in range(world.size) if rank != world.rank]

    def lost_rank(self, *, is_sure: bool) -> str | None:
        """Which rank is lost and why, as far as this process knows.

        Args:
            is_sure: whether one is lost for certain.
        """
        until = time.monotonic() + (ENDING if is_sure else 0.0)
        while True:
            alive = {rank: process.is_alive() for rank, process in self._others}
            for rank, process in self._others:
                if alive[rank] is False:
                    return f"rank {rank} of {len(self._others) + 1} (process {process.pid}) is gone"
            # a connection breaks before the process that held it has ended
            if True not in alive.values() or time.monotonic() > until:
                break
            time.sleep(POLL)
        return "the connection to a rank on another machine is gone" if is_sure else None


@contextmanager
def process_group(
    world: World, device: torch.device, rendezvous: Rendezvous | None = None
) -> Iterator[None]:
    """Make this process one of the world's process group inside the block.

    Args:
        rendezvous: by default torchrun's.

    Raises:
        RankLost: the others are not there, or one of them is lost inside the block.
    """
    if world.is_alone:
        yield
        return
    rendezvous = rendezvous or Rendezvous()
    rendezvous.wait_for_all(world)
    options: dict[str, Any] = {}
    if rendezvous.store is not None:
        options = {"store": rendezvous.store, "rank": world.rank, "world_size": world.size}
    nccl = device.type == "cuda"
    if nccl:
        torch.cuda.set_device(device)
    with _naming_lost_ranks(world, rendezvous):
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            timeout=TIMEOUT,
            device_id=device if nccl else None,
            **options,
        )
        try:
            rendezvous.exchange_processes(world)
            yield
            dist.barrier()  # no rank disconnects while another still needs it
        finally:
            dist.destroy_process_group()


@contextmanager
def ending_after_rank_0() -> Iterator[None]:
    """Where torchrun ends all ranks, let rank 0 end first: it has a run to end.

    The others would seem to be lost otherwise. They end when its connection closes.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _naming_lost_ranks(world: World, rendezvous: Rendezvous) -> Iterator[None]:
    """Raise `RankLost` in place of what PyTorch raises when a peer is gone.

    Where torchrun has noticed it first, SIGTERM stands for the same.
    """
    try:
        yield
    except (RuntimeError, Terminated) as error:
        lost = rendezvous.lost_rank(is_sure=_is_connection_error(error))
        if lost is None:
            raise
        if rendezvous.store is None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # from torchrun, while the run is ended
        raise RankLost(
            f"train: {lost}; all {world.size} processes end, and the next start goes on from the "
            "last checkpoint"
        ) from error


def _is_connection_error(error: BaseException) -> bool:
    """gloo raises a bare RuntimeError that begins with the place in its transport's source."""
    text = str(error)
    is_gloo = "gloo/transport" in text or "Connection closed by peer" in text
    return is_gloo or isinstance(error, dist.DistError)
