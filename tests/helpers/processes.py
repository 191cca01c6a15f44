"""What the processes of a test of many processes run; the started ones import it by its name."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.distributed.launch import launch
from pipeline.distributed.rendezvous import Rendezvous, process_group
from pipeline.distributed.world import ALONE, World
from pipeline.params import Params
from pipeline.training.events import Diverged, NullObserver, Step
from pipeline.training.job import TrainingJob

CPU = torch.device("cpu")
TINY = {"n_layer": 2, "n_head": 2, "n_embd": 8, "context_length": 8, "dropout": 0.0}

Case = dict[str, dict[str, Any]]  # the sections of params.yaml


class StepLog(NullObserver):
    """Keeps the steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def on_step(self, step: Step) -> None:
        self.steps.append(step)


def job_of(case: Case, tokens: Path, world: World) -> TrainingJob:
    params = Params.model_validate({**case, "model": {**TINY, **case.get("model", {})}})
    return TrainingJob.open(params, tokens, world)


def train(case: Case, tokens: Path, world: World = ALONE) -> dict[str, Any]:
    """Train a tiny model; what came of it."""
    observer = StepLog()
    trainer = job_of(case, tokens, world).trainer(observer)
    trainer.run()
    weights = trainer.last_weights.tensors
    return {
        "losses": [step.loss for step in observer.steps],
        "norms": [step.grad_norm for step in observer.steps],
        "history": [asdict(row) for row in trainer.history],
        "weights": {name: tensor.norm().item() for name, tensor in weights.items()},
        "moments": {
            number: state["exp_avg"].norm().item()
            for number, state in trainer.last_optimizer.get("state", {}).items()
        },
    }


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


def run_job_worker(world: World, rendezvous: Rendezvous, case: Case, tokens: Path) -> None:
    """As the stage does it."""
    with process_group(world, CPU, rendezvous), suppress(Diverged):
        job_of(case, tokens, world).trainer(NullObserver()).run()


def die(world: World, rendezvous: Rendezvous) -> None:
    with process_group(world, CPU, rendezvous):
        world.total(1.0)
        os.kill(os.getpid(), signal.SIGKILL)
