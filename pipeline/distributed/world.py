"""The processes that train one model together, on PyTorch's own distributed engine.

Every process holds a `World`: its number among all of them (`rank`), how many there are (`size`),
and the same two on its own machine. A training of one process has the world `ALONE`, whose
collectives return what they are given. Scalars that decide something travel over gloo, also where
gradients travel over NCCL, so that they never wait for a GPU.

Sharp edge: a collective that one rank calls and another does not hangs until `TIMEOUT`
(`rendezvous`) is over. So whatever decides to call one must be the same on every rank.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.distributed.shards import Shard
from pipeline.distributed.slurm import as_torchrun
from pipeline.errors import UserError
from pipeline.params import Train

T = TypeVar("T")
LAUNCHED = "LOSSBOOK_LAUNCHED"  # set: `train.launcher` started this process


@dataclass(frozen=True)
class World:
    """A process's place among those that train together.

    Attributes:
        rank: its number, from 0; rank 0 writes and tracks.
        size: how many processes there are.
        local_rank: its number among those on its machine, which is the number of its GPU.
        local_size: how many run on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @classmethod
    def from_torchrun(cls) -> World | None:
        """What torchrun says in the environment; None where it did not start this process.

        Raises:
            UserError: it says only half of it.
        """
        if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
            return None
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        try:
            return cls(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError):
            raise UserError(
                f"{', '.join(names)}: either torchrun sets all four, to numbers, or RANK and "
                "WORLD_SIZE must be unset"
            ) from None

    @classmethod
    def from_slurm(cls) -> World | None:
        """What `srun` says, put into torchrun's names, which PyTorch reads; None where it is away.

        Raises:
            UserError: it says only half of it.
        """
        os.environ.update(as_torchrun(os.environ))
        return cls.from_torchrun()

    @classmethod
    def on_one_machine(cls, processes: int) -> World:
        """Rank 0's, where it launches the other processes itself."""
        return cls(0, processes, 0, processes)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def shards(self, settings: Train) -> bool:
        """Whether a process holds a part of the weights only; one alone holds all."""
        return settings.sharding == "full" and not self.is_alone

    def shard(self, settings: Train) -> Shard:
        """Which part of the weights this process holds."""
        group = self.size // settings.replicas if self.shards(settings) else 1
        return Shard(self.rank % group, group)

    def check_replicas(self, settings: Train) -> None:
        """
        Raises:
            UserError: the model is sharded in groups, which cannot share the processes equally.
        """
        if self.shards(settings) and self.size % settings.replicas:
            raise UserError(
                f"train.replicas: {settings.replicas} groups cannot share {self.size} processes "
                "(train.processes, or torchrun's) equally; make it a divisor"
            )

    def check_alone(self, what: str) -> None:
        """
        Raises:
            UserError: several processes train, which cannot do `what`.
        """
        if not self.is_alone:
            raise UserError(f"{what} is for one process, and {self.size} train; give a number")

    def device(self, name: str) -> str:
        """`train.device` for this rank: a GPU of its own where GPUs are meant.

        Raises:
            UserError: there are fewer GPUs than ranks here, or `name` cannot be shared.
        """
        gpus = torch.cuda.device_count()
        if self.is_alone or name == "cpu":
            return name
        if name == "auto" and not gpus:
            return "cpu"
        if name not in ("auto", "cuda"):
            raise UserError(
                f"train.device: {name} is one device, and several processes train; "
                "set it to auto, cuda or cpu, or train.processes to 1"
            )
        if self.local_size > gpus:
            raise UserError(
                f"train.processes: {self.local_size} on this machine, but it has {gpus} CUDA GPUs"
            )
        return f"cuda:{self.local_rank}"

    def total(self, *numbers: float) -> list[float]:
        """The sums over all ranks, in float64, the same bits on each."""
        if self.is_alone:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def add_up(self, numbers: Tensor) -> None:
        """Sum over all ranks, in place, where the tensor lies; on a GPU nothing waits for it."""
        if not self.is_alone:
            dist.all_reduce(numbers)

    def any(self, value: bool) -> bool:
        """Whether it is true on some rank."""
        return value if self.is_alone else self.total(value)[0] > 0

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank; it must pickle, and is small."""
        if self.is_alone:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def check_first_is_here(self) -> None:
        """
        Raises:
            UserError: on every rank, where DVC's stage launched some of them, and not rank 0.
        """
        here = LAUNCHED in os.environ
        if self.any(here) and not self.broadcast(here):
            raise UserError(
                "train.launcher: rank 0, which writes the outputs, is not on the machine where DVC "
                "runs; with torchrun give --node-rank 0 there"
            )

    def check_same(self, value: str, what: str) -> None:
        """
        Raises:
            UserError: on every rank, where one of them has another value than rank 0.
        """
        if self.is_alone:
            return
        found: list[tuple[str, str]] = [("", "")] * self.size
        dist.all_gather_object(found, (value, socket.gethostname()))
        for rank, (other, host) in enumerate(found):
            if other != found[0][0]:
                raise UserError(f"train: rank {rank} on {host} has other {what} than rank 0")


ALONE = World()
