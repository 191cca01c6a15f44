"""`train.processes: N`: this process becomes rank 0 and starts the others, on this machine.

They are started by `torch.multiprocessing`, and not by torchrun's agent, because of who is whose
parent: rank 0 stays the very process that DVC started. It holds the run, gets DVC's signals, and
takes the others with it, also when it is killed: the kernel ends them (Linux). An agent would be
one more process in between, and the run would not notice when it or one of its workers dies.

The store through which the ranks find each other, and their connections, listen on 127.0.0.1 only.

Sharp edge: an uncaught exception in a rank ends that rank alone. Rank 0 notices it by the broken
connection or by the watching thread, whichever comes first; the thread knows why.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store
from torch.multiprocessing.spawn import (
    ProcessContext,
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    start_processes,
)

from pipeline.distributed.rendezvous import TIMEOUT, RankLost, Rendezvous, process_group
from pipeline.distributed.world import World
from pipeline.system.process import end_with_parent
from pipeline.system.progress import say

HOST = "127.0.0.1"
# It warns of each process that it ends because another one has ended.
logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)

POLL = 0.02  # seconds
NOTICE = 10.0  # seconds between a broken connection and knowing which rank is lost, at most
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class StoreRendezvous(Rendezvous):
    """Of a launched rank: through rank 0's store."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store: Store = store

    def wait_for_all(self, world: World) -> None:
        self.store.set(_ready(world.rank), "")

    def exchange_processes(self, world: World) -> None:
        pass

    def lost_rank(self, *, is_sure: bool) -> str | None:
        return "the connection to another rank is gone" if is_sure else None  # rank 0 knows more


class LaunchedRanks(StoreRendezvous):
    """Of rank 0: the ranks that it has launched, and watches."""

    def __init__(self, store: Store, processes: ProcessContext) -> None:
        super().__init__(store)
        self._processes = processes
        self._lost: str | None = None
        self._ended = threading.Event()  # all of them, or one of them badly
        self._watching = threading.Thread(target=self._watch, name="lossbook-ranks", daemon=True)
        self._watching.start()

    def wait_for_all(self, world: World) -> None:
        """
        Raises:
            RankLost: one ended before it was there.
        """
        keys = [_ready(rank) for rank in range(1, world.size)]
        while not self.store.check(keys):
            if self._ended.wait(POLL):
                raise RankLost(f"train: {self._lost or 'a rank ended before the training began'}")

    def lost_rank(self, *, is_sure: bool) -> str | None:
        self._ended.wait(NOTICE if is_sure else 0.0)
        return self._lost

    def _watch(self) -> None:
        try:
            while not self._processes.join():
                pass
        except ProcessException as error:
            self._lost = _describe(error, len(self._processes.processes) + 1)
        self._ended.set()
        if self._lost is not None and torch.cuda.is_available():
            _abort_nccl()

    def kill(self) -> None:
        """End those that still run; they hold nothing that is not rank 0's too."""
        for process in self._processes.processes:
            process.kill()
        self._watching.join()  # it waits for them; two threads that do so disturb each other


@contextmanager
def launch(
    world: World, device: torch.device, worker: Callable[..., None], *args: Any
) -> Iterator[None]:
    """The block is rank 0's part; the others run `worker(world, rendezvous, *args)` meanwhile.

    Where torchrun has started the others already, this only joins them.
    """
    if world.is_alone or World.from_torchrun() is not None:
        with process_group(world, device):
            yield
        return
    with _launched(world.size, worker, *args) as ranks, process_group(world, device, ranks):
        yield


@contextmanager
def _launched(size: int, worker: Callable[..., None], *args: Any) -> Iterator[LaunchedRanks]:
    """Ranks 1 to `size` - 1, each running `worker(world, rendezvous, *args)` in a new interpreter.

    Each takes its share of this process's threads, and so does this one. Those that the block
    leaves behind are killed.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // size)
    with _on_loopback(), socket.create_server((HOST, 0)) as listening:
        port = listening.getsockname()[1]
        store = TCPStore(
            HOST,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=TIMEOUT,
            master_listen_fd=os.dup(listening.fileno()),
        )
        processes = start_processes(
            _run_rank,
            args=(size, port, share, os.getpid(), worker, args),
            nprocs=size - 1,
            join=False,
            start_method="spawn",
        )
        ranks = LaunchedRanks(store, processes)
        torch.set_num_threads(share)
        try:
            yield ranks
        finally:
            torch.set_num_threads(threads)
            ranks.kill()


def _run_rank(
    index: int,
    size: int,
    port: int,
    threads: int,
    parent: int,
    worker: Callable[..., None],
    args: tuple[Any, ...],
) -> None:
    """What a started process runs, as rank `index` + 1."""
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches rank 0 too, which ends all
    torch.set_num_threads(threads)
    world = World(index + 1, size, index + 1, size)
    store = TCPStore(HOST, port, is_master=False, timeout=TIMEOUT)
    try:
        worker(world, StoreRendezvous(store), *args)
    except RankLost:
        time.sleep(2 * NOTICE)  # so that the lost one is seen to end first; rank 0 ends this one


def _ready(rank: int) -> str:
    return f"ready/{rank}"


def _describe(error: ProcessException, size: int) -> str:
    rank = f"rank {error.error_index + 1} of {size}"
    if isinstance(error, ProcessExitedException) and error.signal_name:
        return f"{rank} was killed by {error.signal_name}"
    if not isinstance(error, ProcessRaisedException):
        return f"{rank} ended by itself"
    trace = str(error).strip()
    kind, _, message = trace.splitlines()[-1].partition(": ")
    if kind.startswith("pipeline."):  # a UserError, in a sentence
        return f"{rank}: {message}"
    say(trace, keep="\n\t")
    return f"{rank} failed ({kind}: {message})"


def _abort_nccl() -> None:
    """Have rank 0 leave the NCCL collective in which it waits for a rank that is gone."""
    if dist.is_initialized():
        dist.distributed_c10d._abort_process_group()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Have gloo and NCCL listen on 127.0.0.1, in this process and in those it starts."""
    addresses = psutil.net_if_addrs().items()
    loopback = next(name for name, found in addresses if any(a.address == HOST for a in found))
    before = {name: os.environ.get(name) for name in INTERFACES}
    os.environ.update(dict.fromkeys(INTERFACES, loopback))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
