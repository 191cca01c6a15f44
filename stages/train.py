"""Pretrain the GPT: tokens in; weights, loss history, figure and summary out."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import FILE, FOLDER, Command

if TYPE_CHECKING:
    from pipeline.distributed.rendezvous import Meeting
    from pipeline.distributed.world import World
    from pipeline.generation.matmul_kernels import Precision
    from pipeline.model.gpt import GPT
    from pipeline.system.progress import Progress
    from pipeline.tracking.open_run import Run
    from pipeline.training.events import Evaluation, Step
    from pipeline.training.job import TrainingJob
    from pipeline.training.loop import Trainer

SAMPLE_TOKENS = 50


@click.command(cls=Command)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--tokens", type=FOLDER, required=True, help="Folder of train/ and val/ tokens.")
@click.option("--model", "folder", type=FOLDER, required=True, help="Folder of weights to write.")
@click.option(
    "--reports", type=FOLDER, required=True, help="Folder of history, figure and summary."
)
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(params_file: Path, tokens: Path, folder: Path, reports: Path, journal: Path) -> None:
    """Pretrain the GPT of params.yaml's `model` section as its `train` section says.

    With `train.processes` above 1, and under torchrun, several processes train together. Rank 0
    alone leads: it writes, tracks and tells.
    """
    from pipeline.distributed.world import World
    from pipeline.params import load_params
    from pipeline.training.job import TrainingJob

    params = load_params(params_file)
    world = World.of_torchrun() or World.of_one_machine(params.train.processes)
    if not world.is_first:
        follow_torchrun(world, params_file, tokens)
        return
    refuse_own_output(params.train.init_from, folder)
    job = TrainingJob.open(params, tokens, world)
    lead(job, partial(follow, params_file=params_file, tokens=tokens), folder, reports, journal)


def refuse_own_output(init_from: str, folder: Path) -> None:
    """Say what to do instead of starting from the folder that this stage is about to write.

    Raises:
        UserError: `init_from` names it; DVC has removed what it held.
    """
    from pipeline.errors import UserError
    from pipeline.weights import TRAINED

    if init_from == TRAINED or Path(init_from).resolve() == folder.resolve():
        raise UserError(
            f"train.init_from: {init_from} is what this stage writes, and DVC removes it before "
            "the stage starts; name the run that left it (`lossbook runs --json`), or a copy of "
            "the folder"
        )


def follow(world: World, meeting: Meeting | None, params_file: Path, tokens: Path) -> None:
    """Train as any rank but the first."""
    from pipeline.distributed.rendezvous import joined
    from pipeline.model.runtime import keep_freed_memory
    from pipeline.params import load_params
    from pipeline.training.job import TrainingJob

    keep_freed_memory()
    job = TrainingJob.open(load_params(params_file), tokens, world)
    with joined(world, job.runtime.device, meeting):
        job.follow()


def follow_torchrun(world: World, params_file: Path, tokens: Path) -> None:
    from pipeline.distributed.rendezvous import RankLost, after_rank_0

    try:
        with after_rank_0():
            follow(world, None, params_file, tokens)
    except RankLost:
        sys.exit(1)  # rank 0 says so, or torchrun, where it is rank 0 that is gone


def lead(
    job: TrainingJob, follow: Callable[..., None], folder: Path, reports: Path, journal: Path
) -> None:
    """Train as rank 0, and write what comes of it; further ranks run `follow` meanwhile."""
    from pipeline.distributed.launch import together
    from pipeline.model.runtime import keep_freed_memory
    from pipeline.system.progress import Progress
    from pipeline.tracking.paths import state_folder
    from pipeline.tracking.run import start_run
    from pipeline.training.checkpointer import Checkpointer

    keep_freed_memory()
    state = state_folder("train", job.fingerprint)
    with (
        start_run(
            "train",
            experiment=job.params.tracking.experiment,
            state=state,
            record=reports / "train_run.json",
            journal=journal,
            **introduction(job),
        ) as run,
        Progress(job.total_steps, "train", unit="step") as bar,
    ):
        log_inputs(run, job)
        with (
            Checkpointer(
                state / "checkpoints",
                every=job.params.train.checkpoint_every,
                warn=lambda problem: bar.say(f"warning: {problem}"),
                before_commit=run.sync,
            ) as checkpoints,
            together(job.world, job.runtime.device, follow),
        ):
            trainer = job.trainer(Recorder(run, bar, greedy_sampler(job)), checkpoints)
            if trainer.step:
                bar.say(f"going on from the checkpoint of step {trainer.step}")
                bar.go_on_from(trainer.step)
            job.run(trainer, rescue=state / "best")
            if trainer.step < trainer.total_steps:
                patience = job.params.train.early_stopping
                bar.say(f"stopped: no lower validation loss in {patience} evaluations")
        write_outputs(run, job, trainer, folder, reports)


class Recorder:
    """Passes on what the training tells: numbers to the run, lines to the terminal."""

    def __init__(self, run: Run, bar: Progress, sample: Callable[[GPT], dict[str, Any]]) -> None:
        self.run, self.bar, self.sample = run, bar, sample
        self.samples: list[dict[str, Any]] = []
        self.spikes: list[int] = []

    def on_step(self, step: Step) -> None:
        speed = step.tokens / step.seconds
        metrics = {
            "train/loss": step.loss,
            "train/learning_rate": step.learning_rate,
            "train/tokens_per_second": speed,
        }
        if step.grad_norm is not None:
            metrics["train/grad_norm"] = step.grad_norm
        if step.mfu is not None:
            metrics["train/mfu"] = step.mfu
        if step.memory is not None:
            metrics["train/gpu_memory_megabytes"] = step.memory / 1e6
        if step.is_spike:
            metrics["train/loss_spike"] = step.loss
            self.tell_spike(step)
        self.run.log_metrics(metrics, step=step.step)
        self.bar.advance(1, **{"loss": f"{step.loss:.3f}", "tokens/s": f"{speed:.0f}"})

    def tell_spike(self, step: Step) -> None:
        self.spikes.append(step.step)
        steps = ", ".join(map(str, self.spikes[:20])) + ", …" * (len(self.spikes) > 20)
        self.run.set_tags({"loss_spikes": f"{len(self.spikes)} (steps {steps})"})
        self.bar.say(f"warning: the training loss jumped to {step.loss:.3f} at step {step.step}")

    def on_evaluation(self, evaluation: Evaluation) -> None:
        losses = {"train": evaluation.train_loss, "val": evaluation.val_loss}
        metrics = {f"eval/{split}_loss": loss for split, loss in losses.items()}
        metrics |= {f"eval/{split}_perplexity": math.exp(loss) for split, loss in losses.items()}
        metrics["eval/epoch"] = evaluation.epoch
        self.run.log_metrics(metrics, step=evaluation.step)
        by_tokens = {f"by_tokens/{split}_loss": loss for split, loss in losses.items()}
        self.run.log_metrics(by_tokens, step=evaluation.tokens_seen)
        self.bar.say(
            f"epoch {evaluation.epoch:.2f}, step {evaluation.step}: training loss "
            f"{evaluation.train_loss:.3f}, validation loss {evaluation.val_loss:.3f}"
        )

    def on_epoch(self, epoch: int, model: GPT) -> None:
        row = {**self.sample(model), "weights": f"epoch {epoch}"}
        self.samples.append(row)
        self.bar.say(f"epoch {epoch}: {row['prompt']}{row['completion']}".replace("\n", " "))
        self.run.log_text(f"{row['prompt']}{row['completion']}\n", f"samples/epoch_{epoch:03}.txt")

    def state(self) -> dict[str, Any]:
        return {"samples": list(self.samples), "spikes": list(self.spikes)}

    def restore(self, state: dict[str, Any]) -> None:
        self.samples, self.spikes = state["samples"], state["spikes"]


def greedy_sampler(job: TrainingJob) -> Callable[[GPT], dict[str, Any]]:
    """Completes `train.sample_prompt`, the likeliest token each time, as the book does.

    In the precision of the training, which on a CPU takes half the time in bf16.
    """
    from pipeline.generation.decode import complete
    from pipeline.generation.sampling import Sampling

    prompt = job.params.train.sample_prompt
    greedy = Sampling(temperature=0.0)
    precision: Precision = "bf16" if job.runtime.bf16 else "model"

    def sample(model: GPT) -> dict[str, Any]:
        completion = complete(model, prompt, greedy, SAMPLE_TOKENS, precision=precision)
        settings = {"temperature": 0.0, "top_k": None, "seed": None}
        return {"prompt": prompt, **settings, "completion": completion}

    return sample


def introduction(job: TrainingJob) -> dict[str, Any]:
    """What the run is called, what it says of itself, its params and tags."""
    from pipeline.params import Params, flatten
    from pipeline.tracking.run import run_name

    sections = {"seed", "model", "train"}
    params = flatten(job.params.model_dump(include=sections))
    defaults = flatten(Params().model_dump(include=sections))
    meta = job.train_windows.tokens.meta
    return {
        "name": run_name(params, defaults, ["train.learning_rate"]),
        "description": (
            f"Pretraining on **{meta['corpus']}**: {len(job.train_windows.tokens):,} training and "
            f"{len(job.val_windows.tokens):,} validation tokens, {job.total_steps:,} steps, "
            f"{job.runtime.precision} on {job.runtime.device.type}."
        ),
        "params": {
            **params,
            "runtime.precision": job.runtime.precision,
            "runtime.processes": job.world.size,
        },
        "tags": {"corpus": meta["corpus"], "corpus_sha256": meta["corpus_sha256"]},
    }


def log_inputs(run: Run, job: TrainingJob) -> None:
    for context, windows in (("training", job.train_windows), ("validation", job.val_windows)):
        meta = windows.tokens.meta
        profile = {key: meta[key] for key in ("tokens", "documents", "characters", "bytes")}
        run.log_input(
            f"{meta['corpus']}/{meta['split']}",
            source=str(windows.tokens.folder),
            digest=meta["corpus_sha256"],
            context=context,
            profile={**profile, "windows": len(windows)},
        )


def write_outputs(
    run: Run, job: TrainingJob, trainer: Trainer, folder: Path, reports: Path
) -> None:
    """Write what dvc.yaml declares, and the same numbers to the run."""
    import pandas as pd

    from pipeline.params import flatten
    from pipeline.plots.curves import loss_curves
    from pipeline.serving.trained_model import log_saved
    from pipeline.system.files import write_json
    from pipeline.training.job import save_training, summary, verdict, write_history

    assert trainer.best is not None, "a training evaluates at step 0"
    # Each file is logged as it comes: the best weights are published while others are written.
    save_training(folder, trainer, job.start, partial(log_saved, run, job, trainer.best, folder))
    write_history(reports / "history.csv", trainer.history)
    write_json(
        reports / "train.json", results := summary(trainer.model, trainer.history, trainer.best)
    )
    history = pd.DataFrame([asdict(row) for row in trainer.history])
    tokens_per_epoch = trainer.tokens_per_epoch
    loss_curves(history, reports / "loss.png", tokens_per_epoch=tokens_per_epoch)

    run.log_metrics({k.replace(".", "/"): v for k, v in flatten(results).items()}, step=0)
    recorder = trainer.observer
    assert isinstance(recorder, Recorder)
    run.log_samples(recorder.samples)
    run.log_artifact(reports / "loss.png", "figures")
    run.log_artifact(reports / "history.csv")
    run.set_tags({"verdict": verdict(trainer.history, trainer.best)})
    recorder.bar.say(verdict(trainer.history, trainer.best))


if __name__ == "__main__":
    main()
