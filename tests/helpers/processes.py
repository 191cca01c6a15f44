"""What the processes of a test of many processes run; the started ones import it by its name."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from pipeline.distributed.launch import launch
from pipeline.distributed.rendezvous import Rendezvous, process_group
from pipeline.distributed.world import ALONE, World
from pipeline.params import Params
from pipeline.reports import HistoryRow
from pipeline.training.checkpointer import Checkpointer
from pipeline.training.events import Diverged, NullObserver, Step
from pipeline.training.job import TrainingJob
from pipeline.training.loop import Trainer

CPU = torch.device("cpu")
TINY = {"n_layer": 2, "n_head": 2, "n_embd": 8, "context_length": 8, "dropout": 0.0}

Case = dict[str, dict[str, Any]]  # the sections of params.yaml


class Waiting(Checkpointer):
    """Writes as always, but has each checkpoint in place before training goes on."""

    def save(self, *given: Any) -> None:
        super().save(*given)
        self.wait()


class StepLog(NullObserver):
    """Keeps the steps, and the losses of the averaged weights."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.averages: list[float] = []

    def on_evaluation(self, row: HistoryRow, ema_val_loss: float | None = None) -> None:
        if ema_val_loss is not None:
            self.averages.append(ema_val_loss)

    def on_step(self, step: Step) -> None:
        self.steps.append(step)


def job_of(case: Case, tokens: Path, world: World) -> TrainingJob:
    params = Params.model_validate({**case, "model": {**TINY, **case.get("model", {})}})
    return TrainingJob.open(params, tokens, world)


class KillsItself(NullObserver):
    """Ends its process at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, step: Step) -> None:
        if step.step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def train(
    case: Case,
    tokens: Path,
    world: World = ALONE,
    checkpoints: Checkpointer | None = None,
    observer: StepLog | None = None,
) -> dict[str, Any]:
    """Train a tiny model, from the latest checkpoint where there is one; what came of it."""
    observer = observer or StepLog()
    trainer = job_of(case, tokens, world).trainer(observer, checkpoints)
    with nullcontext() if world.is_first else trainer.checkpoints or nullcontext():
        trainer.run()
    weights, average = trainer.last_weights.tensors, trainer.last_average
    return {
        "gradients": gradients_by_rank(trainer),
        "losses": [step.loss for step in observer.steps],
        "norms": [step.grad_norm for step in observer.steps],
        "history": [asdict(row) for row in trainer.history],
        "weights": {name: tensor.norm().item() for name, tensor in weights.items()},
        "average": {name: tensor.norm().item() for name, tensor in average.items()},
        "averages": observer.averages,
        "moments": {
            number: state.get("exp_avg", state.get("momentum_buffer")).norm().item()
            for number, state in trainer.last_optimizer.get("state", {}).items()
        },
        "bits": [tensor.numpy().tobytes() for tensor in (*weights.values(), *average.values())],
    }


def gradients_by_rank(trainer: Trainer) -> list[dict[str, float]]:
    """The norms of the last step's gradients, as each rank has them."""
    mine = {
        name: (p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad).norm().item()
        for name, p in trainer.model.named_parameters()
        if p.grad is not None
    }
    if trainer.world.is_alone:
        return [mine]
    found: list[Any] = [None] * trainer.world.size
    dist.all_gather_object(found, mine)
    return found


def train_all(cases: list[Case], tokens: Path, world: World) -> list[dict[str, Any]]:
    return [train(case, tokens, world) for case in cases]


def run_worker(world: World, rendezvous: Rendezvous, cases: list[Case], tokens: Path) -> None:
    with process_group(world, CPU, rendezvous):
        train_all(cases, tokens, world)


def train_by(processes: int, cases: list[Case], tokens: Path) -> list[dict[str, Any]]:
    """The same by several processes, this one and those that it starts, in one group."""
    world = World.on_one_machine(processes)
    with launch(world, CPU, run_worker, cases, tokens):
        return train_all(cases, tokens, world)


def train_until_killed(
    processes: int, case: Case, tokens: Path, folder: Path, kill_at: int
) -> None:
    """Train until rank 1 is killed; a checkpoint of each step before is in `folder`."""
    world, case = World.on_one_machine(processes), every(1, case)
    with (
        Waiting(folder, notify=print) as checkpoints,
        launch(world, CPU, run_until_killed, case, tokens, kill_at),
    ):
        job_of(case, tokens, world).trainer(NullObserver(), checkpoints).run()


def run_until_killed(
    world: World, rendezvous: Rendezvous, case: Case, tokens: Path, kill_at: int
) -> None:
    observer = KillsItself(kill_at) if world.rank == 1 else NullObserver()
    with process_group(world, CPU, rendezvous):
        trainer = job_of(case, tokens, world).trainer(observer)
        if trainer.checkpoints is not None:
            trainer.checkpoints.__class__ = Waiting
        trainer.run()


def every(steps: int, case: Case) -> Case:
    """With a checkpoint every so many steps."""
    return {**case, "train": {**case["train"], "checkpoint_every": steps}}


def go_on_by(processes: int, case: Case, tokens: Path, folder: Path) -> dict[str, Any]:
    """Train by several processes from the latest checkpoint in `folder`."""
    world, case = World.on_one_machine(processes), every(10**6, case)
    with (
        Checkpointer(folder, notify=print) as checkpoints,
        launch(world, CPU, run_worker, [case], tokens),
    ):
        return train(case, tokens, world, checkpoints)


def run_job_worker(world: World, rendezvous: Rendezvous, case: Case, tokens: Path) -> None:
    """As the stage does it."""
    with process_group(world, CPU, rendezvous), suppress(Diverged):
        job_of(case, tokens, world).trainer(NullObserver()).run()


def die(world: World, rendezvous: Rendezvous) -> None:
    with process_group(world, CPU, rendezvous):
        world.total(1.0)
        os.kill(os.getpid(), signal.SIGKILL)


class FullDisk(StepLog):
    """For the checkpoint of step `at`, this process can write no more."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def on_step(self, step: Step) -> None:
        super().on_step(step)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = 100 if step.step == self.at else limits[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))


def write_shards(
    case: Case, tokens: Path, folder: Path, notify: Callable[[str], None], **fault: Any
) -> dict[str, Any]:
    """Train by as many processes as the case says, with a checkpoint after every step."""
    world, case = World.on_one_machine(case["train"]["processes"]), every(1, case)
    with (
        Waiting(folder, notify=notify) as checkpoints,
        launch(world, CPU, run_shard, case, tokens, fault),
    ):
        return train(case, tokens, world, checkpoints, faulty(0, **fault))


def run_shard(
    world: World, rendezvous: Rendezvous, case: Case, tokens: Path, fault: dict[str, Any]
) -> None:
    """
    Args:
        fault: `full`, a rank and a step; `blind`: sees no folder that another rank sees.
    """
    if fault.get("blind"):
        os.access = lambda *_: False
    with process_group(world, CPU, rendezvous):
        trainer = job_of(case, tokens, world).trainer(faulty(world.rank, **fault))
        if trainer.checkpoints is not None:
            trainer.checkpoints.__class__ = Waiting
        with trainer.checkpoints or nullcontext():
            trainer.run()
        gradients_by_rank(trainer)


def faulty(rank: int, full: tuple[int, int] = (-1, 0), **_: Any) -> StepLog:
    return FullDisk(full[1]) if rank == full[0] else StepLog()
