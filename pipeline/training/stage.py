"""The train stage: tokens in; weights, loss history, figure, summary and a run out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.distributed.launch import launch
from pipeline.distributed.launcher import run_launcher
from pipeline.distributed.world import World
from pipeline.errors import UserError
from pipeline.numbers import counted
from pipeline.params import flatten, load_params
from pipeline.params_advice import advice
from pipeline.serving.trained_model import log_saved
from pipeline.system.progress import Progress
from pipeline.system.text import quoted
from pipeline.tracking.paths import state_folder
from pipeline.tracking.run import start_run
from pipeline.training.checkpointer import Checkpointer
from pipeline.training.job import TrainingJob
from pipeline.training.loop import Trainer
from pipeline.training.outputs import (
    describe_outcome,
    draw_history,
    save_training,
    summary,
    write_history,
)
from pipeline.training.recorder import Recorder, greedy_sampler, log_inputs, run_header
from pipeline.training.worker import run_torchrun_worker, run_worker
from pipeline.weights import refuse_output

SUMMARY = "train.json"


def train(params_file: Path, tokens: Path, folder: Path, reports: Path, journal: Path) -> None:
    """Pretrain the GPT that the params describe.

    With `train.processes` above 1, and under torchrun or Slurm, several processes train together.
    Rank 0 alone writes, logs and reports. `train.launcher` starts torchrun or Slurm from here.
    """
    params = load_params(params_file)
    world = World.from_torchrun() or World.from_slurm()
    if world is None and params.train.launcher is not None:
        options = {
            "--params": params_file,
            "--tokens": tokens,
            "--model": folder,
            "--reports": reports,
            "--journal": journal,
        }
        written = _written(reports / SUMMARY)
        run_launcher(params.train.launcher, "stages.train", options)
        if _written(reports / SUMMARY) == written:
            raise UserError(
                f"train.launcher: {quoted(params.train.launcher)} ended well, but no process of it "
                "has trained; it must run the command that it gets as its last arguments"
            )
        return
    world = world or World.on_one_machine(params.train.processes)
    if not world.is_first:
        run_torchrun_worker(world, params_file, tokens)
        return
    refuse_output(params.train.init_from, folder)
    job = TrainingJob.open(params, tokens, world)
    worker = partial(run_worker, params_file=params_file, tokens=tokens)
    train_as_rank_0(job, worker, folder, reports, journal)


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def train_as_rank_0(
    job: TrainingJob, worker: Callable[..., None], folder: Path, reports: Path, journal: Path
) -> None:
    """Train, log and write the outputs; the other ranks run `worker` meanwhile."""
    with (
        start_run(
            "train",
            experiment=job.params.tracking.experiment,
            state=state_folder("train", job.fingerprint),
            record=reports / "train_run.json",
            journal=journal,
            **run_header(job),
        ) as run,
        Progress(job.total_steps, "train", unit="step") as bar,
    ):
        for line in advice(job.params, total_steps=job.total_steps, processes=job.world.size):
            bar.say(f"warning: {line}")
        log_inputs(run, job)
        recorder = Recorder(run, bar, greedy_sampler(job))
        with (
            Checkpointer(
                run.folder / "checkpoints",
                notify=lambda problem: bar.say(f"warning: {problem}"),
                before_commit=run.sync,
            ) as checkpoints,
            launch(job.world, job.runtime.device, worker),
        ):
            trainer = job.trainer(recorder, checkpoints)
            if trainer.step:
                bar.say(f"going on from the checkpoint of step {trainer.step}")
                bar.go_on_from(trainer.step)
            job.run(trainer, rescue=run.folder / "best")
            if trainer.step < trainer.total_steps:
                patience = job.params.train.early_stopping
                bar.say(
                    f"stopped: no lower validation loss in {counted(patience or 0, 'evaluation')}"
                )
        write_outputs(recorder, job, trainer, folder, reports)


def write_outputs(
    recorder: Recorder, job: TrainingJob, trainer: Trainer, folder: Path, reports: Path
) -> None:
    """Write what dvc.yaml declares, and log it to the run."""
    run, history, best = recorder.run, trainer.history, trainer.best
    assert best is not None, "a training evaluates at step 0"
    # Each file is logged as it comes: the best weights are published while others are written.
    on_saved = partial(log_saved, run, job.params.sample, job.val_windows, best, folder)
    save_training(folder, trainer, job.start, on_saved)
    write_history(reports / "history.csv", history)
    last_epoch = trainer.spikes.state()[-trainer.batches.steps_per_epoch :]
    results = summary(trainer.model, history, best, last_epoch, trainer.ema_val_loss)
    results.write(reports / SUMMARY)
    draw_history(reports / "loss.png", history, trainer.tokens_per_epoch)

    run.log_metrics({k.replace(".", "/"): v for k, v in flatten(results).items()}, step=0)
    run.log_samples(recorder.samples)
    run.log_artifact(reports / "loss.png", "figures")
    run.log_artifact(reports / "history.csv")
    windows = len(trainer.validation_indices()), len(trainer.val_windows)
    outcome = describe_outcome(history, best, windows)
    run.set_tags({"verdict": outcome})
    recorder.bar.say(outcome)
