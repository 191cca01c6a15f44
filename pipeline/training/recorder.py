"""What of a training goes into its run and to the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.generation.decode import complete
from pipeline.generation.matmul_kernels import Precision
from pipeline.generation.sampling import Sampling
from pipeline.model.gpt import GPT
from pipeline.numbers import counted, perplexity, shown
from pipeline.params import Params, flatten
from pipeline.reports import HistoryRow
from pipeline.system.markdown import inline
from pipeline.system.progress import Progress
from pipeline.system.records import Record
from pipeline.tracking.open_run import Run
from pipeline.tracking.run import run_name, setting
from pipeline.training.events import Step, Unit, metrics_of
from pipeline.training.job import TrainingJob

SAMPLE_TOKENS = 50
LISTED_SPIKES = 20
DIGITS: dict[Unit, int] = {"epoch": 3, "step": 9}  # of a sample's file, so that names sort


class RecorderState(Record):
    """What a checkpoint holds of a `Recorder`."""

    samples: tuple[dict[str, Any], ...]
    spikes: tuple[int, ...]


class Recorder:
    """The observer that logs numbers and samples to the run, and lines to the terminal."""

    def __init__(self, run: Run, bar: Progress, sample: Callable[[GPT], dict[str, Any]]) -> None:
        self.run, self.bar, self.sample = run, bar, sample
        self.samples: list[dict[str, Any]] = []
        self.spikes: list[int] = []

    def on_step(self, step: Step) -> None:
        if step.loss_spike is not None:
            self.report_spike(step)
        self.run.log_metrics(metrics_of(step), step=step.step)
        speed = f"{step.tokens_per_second:.0f}"
        self.bar.advance(1, **{"loss": shown(step.loss), "tokens/s": speed})

    def report_spike(self, step: Step) -> None:
        self.spikes.append(step.step)
        steps = "steps " if len(self.spikes) > 1 else "step "
        steps += ", ".join(map(str, self.spikes[:LISTED_SPIKES]))
        more = ", …" * (len(self.spikes) > LISTED_SPIKES)
        self.run.set_tags({"loss_spikes": f"{len(self.spikes)} ({steps}{more})"})
        self.bar.say(f"warning: the training loss jumped to {shown(step.loss)} at step {step.step}")

    def on_evaluation(self, row: HistoryRow, ema_val_loss: float | None = None) -> None:
        losses = metrics_of(row, "perplexity")
        perplexities = {name: perplexity(loss) for name, loss in losses.items()}
        self.run.log_metrics(metrics_of(row) | perplexities, step=row.step)
        self.run.log_metrics(metrics_of(row, "by_tokens"), step=row.tokens_seen)
        average = ""
        if ema_val_loss is not None:
            self.run.log_metrics({"eval/ema_val_loss": ema_val_loss}, step=row.step)
            average = f", of the averaged weights {shown(ema_val_loss)}"
        self.bar.say(
            f"epoch {row.epoch:.2f}, step {row.step}: training loss {shown(row.train_loss)}, "
            f"validation loss {shown(row.val_loss)}{average}"
        )

    def on_sample(self, unit: Unit, number: int, model: GPT) -> None:
        row = {**self.sample(model), "weights": f"{unit} {number}"}
        self.samples.append(row)
        text = f"{row['prompt']}{row['completion']}"
        self.bar.say(f"{unit} {number}: {text}".replace("\n", " "))
        self.run.log_text(f"{text}\n", f"samples/{unit}_{number:0{DIGITS[unit]}}.txt")

    def state(self) -> dict[str, Any]:
        return {"samples": list(self.samples), "spikes": list(self.spikes)}

    def restore(self, state: Any) -> None:
        found = RecorderState.from_value(state, "observer")
        self.samples, self.spikes = list(found.samples), list(found.spikes)


def greedy_sampler(job: TrainingJob) -> Callable[[GPT], dict[str, Any]]:
    """Completes `train.sample_prompt`, the likeliest token each time, as the book does.

    In the precision of the training, which on a CPU takes half the time in bf16.
    """
    prompt = job.params.train.sample_prompt
    greedy = Sampling(temperature=0.0)
    precision: Precision = "bf16" if job.runtime.bf16 else "model"

    def sample(model: GPT) -> dict[str, Any]:
        completion = complete(model, prompt, greedy, SAMPLE_TOKENS, precision=precision)
        settings = {"temperature": 0.0, "top_k": None, "seed": None}
        return {"prompt": prompt, **settings, "completion": completion}

    return sample


def run_header(job: TrainingJob) -> dict[str, Any]:
    """The run's name, description, params and tags, as `start_run` takes them."""
    sections = {"seed", "model", "train"}
    params = flatten(job.params.model_dump(include=sections))
    defaults = flatten(Params().model_dump(include=sections))
    always = ["train.learning_rate"]
    seedless = {key: value for key, value in params.items() if key != "seed"}
    runtime = {
        "runtime.precision": job.runtime.precision,
        "runtime.world_size": job.world.size,
    }
    meta = job.train_windows.tokens.meta
    text = [windows.dataset()["digest"] for windows in (job.train_windows, job.val_windows)]
    return {
        "name": run_name(params, defaults, always),
        "description": (
            f"Pretraining on **{inline(meta.corpus)}**: {len(job.train_windows.tokens):,} "
            f"training and {len(job.val_windows.tokens):,} validation tokens, "
            f"{counted(job.total_steps, 'step')}, {job.runtime.precision} on "
            f"{job.runtime.device.type}.\n\n"
            "`train/loss` is of each step's own batch, with dropout; `eval/train_loss` and "
            "`eval/val_loss` are of the same windows at every evaluation, without it."
        ),
        "params": {**params, **runtime},
        "tags": {
            "corpus": meta.corpus,
            "corpus_sha256": meta.corpus_sha256,
            "setting": setting(run_name(seedless, defaults, always), seedless, runtime, text),
        },
    }


def log_inputs(run: Run, job: TrainingJob) -> None:
    """Log the two splits as the run's data sets."""
    run.log_input(**job.train_windows.dataset(), context="training")
    run.log_input(**job.val_windows.dataset(), context="validation")
