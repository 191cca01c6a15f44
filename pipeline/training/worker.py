"""What every rank but the first runs. Apart from the stage, so that it imports no tracking."""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from pathlib import Path

from pipeline.distributed.rendezvous import (
    RankLost,
    Rendezvous,
    ending_after_rank_0,
    process_group,
)
from pipeline.distributed.world import World
from pipeline.errors import UserError
from pipeline.params import load_params
from pipeline.system.progress import say
from pipeline.training.events import Diverged, NullObserver
from pipeline.training.job import TrainingJob


def run_worker(
    world: World, rendezvous: Rendezvous | None, params_file: Path, tokens: Path
) -> None:
    """Train as a rank that writes and reports nothing."""
    job = TrainingJob.open(load_params(params_file), tokens, world)
    with (
        process_group(world, job.runtime.device, rendezvous),
        suppress(Diverged),  # rank 0 reports it
    ):
        trainer = job.trainer(NullObserver())
        with trainer.checkpoints or nullcontext():
            trainer.run()


def run_torchrun_worker(world: World, params_file: Path, tokens: Path) -> None:
    """`run_worker` in a process that torchrun or Slurm has started; its failure is no run's."""
    try:
        with ending_after_rank_0():
            run_worker(world, None, params_file, tokens)
    except RankLost:
        sys.exit(1)  # rank 0 says so, or torchrun, where it is rank 0 that is gone
    except UserError as error:
        say(f"Error: {error}")
        sys.exit(1)
