"""A training, made ready from params and tokens, and what it leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pipeline.data.loader import Windows
from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.fingerprint import fingerprint
from pipeline.model.gpt import GPT
from pipeline.model.saved import FILES, save_config, save_state, save_weights, save_whole
from pipeline.params import Params
from pipeline.runtime import Runtime, choose_runtime
from pipeline.training.batch_size import with_largest_batch
from pipeline.training.batches import Batches
from pipeline.training.checkpointer import Checkpointer
from pipeline.training.events import Diverged, Evaluation, Observer
from pipeline.training.loop import Trainer
from pipeline.training.objective import compiles
from pipeline.training.optim import build_optimizer
from pipeline.training.schedule import total_steps
from pipeline.training.start import (
    OPTIMIZER,
    Start,
    config_of,
    starting_files,
    starting_model,
    starting_optimizer,
)

CODE = ("data/*.py", "model/*.py", "training/*.py", "evaluation/perplexity.py", "runtime.py")
HISTORY = tuple(Evaluation.__dataclass_fields__)
WITHOUT_EFFECT = {"checkpoint_every", "processes"}  # on what is computed


@dataclass(frozen=True)
class TrainingJob:
    """What will be trained, on what, where; refused here if it cannot be, before any work."""

    params: Params
    train_windows: Windows
    val_windows: Windows
    batches: Batches
    runtime: Runtime

    @classmethod
    def open(cls, params: Params, tokens: Path) -> TrainingJob:
        """Map the tokens and choose the device.

        Raises:
            UserError: a split is missing or too short, the device is not there, or it cannot do
                what is asked of it.
        """
        train, val = (
            Windows.open(tokens / split, params.model.context_length) for split in ("train", "val")
        )
        runtime = choose_runtime(params.train.device, params.train.precision)
        compiles(params.train, runtime.device)
        if params.train.batch_size == "auto":
            params = with_largest_batch(params, len(train), runtime)
        batches = Batches(len(train), params.train, params.seed)
        return cls(params, train, val, batches, runtime)

    @cached_property
    def fingerprint(self) -> str:
        """Of everything that decides the weights: params, precision, data and code."""
        values = self.params.model_dump(
            mode="json",
            include={"seed", "model", "train"},
            exclude={"train": WITHOUT_EFFECT},
        )
        return fingerprint(
            {**values, "precision": self.runtime.precision},
            files=[
                *(w.tokens.folder / "meta.json" for w in (self.train_windows, self.val_windows)),
                *starting_files(self.params.train.init_from),
            ],
            code=CODE,
        )

    @property
    def start(self) -> Start:
        params = self.params
        return Start(init_from=params.train.init_from, init=params.model.init, seed=params.seed)

    @property
    def total_steps(self) -> int:
        return total_steps(self.batches.steps_per_epoch, self.params.train)

    def trainer(self, observer: Observer, checkpoints: Checkpointer | None = None) -> Trainer:
        """A trainer where the latest checkpoint left off, or at step 0: weights, optimizer."""
        params = self.params
        model = starting_model(config_of(params.model), self.start, params.gpt2)
        model = model.to(self.runtime.device)
        optimizer = build_optimizer(model, params.train)
        starting_optimizer(optimizer, self.start.init_from, params.train.init_optimizer)
        trainer = Trainer(
            model,
            optimizer,
            self.train_windows,
            self.val_windows,
            self.batches,
            params.train,
            self.runtime,
            observer,
            checkpoints,
        )
        if checkpoints is not None and (found := checkpoints.latest()) is not None:
            trainer.restore(found)
        return trainer

    def run(self, trainer: Trainer, rescue: Path) -> None:
        """Train; where the loss diverges, leave the last good weights in the folder `rescue`.

        Raises:
            Diverged: a loss is not finite.
            UserError: the GPU's memory does not do.
        """
        try:
            trainer.run()
        except torch.OutOfMemoryError as error:
            raise UserError(_memory_is_short(self.params, error)) from None
        except Diverged as error:
            if not trainer.last_good:
                raise
            save_config(rescue, trainer.model.config)
            save_state(rescue / FILES["last"], trainer.last_good.tensors)
            step = trainer.last_good.step
            raise Diverged(f"{error}; the weights of step {step} are kept in {rescue}") from None


def _memory_is_short(params: Params, error: torch.OutOfMemoryError) -> str:
    first_sentence = str(error).partition(". ")[0]
    return (
        f"train.batch_size: {params.train.batch_size} windows do not fit into this GPU's memory "
        f"({first_sentence}); lower it with a larger train.gradient_accumulation, set it to auto, "
        "or set train.activation_checkpointing: true"
    )


def save_training(folder: Path, trainer: Trainer, start: Start) -> None:
    """Write the folder of a trained model: config, start, last and best weights, optimizer."""
    save_config(folder, trainer.model.config)
    start.save(folder)
    save_weights(folder, trainer.model, "last")
    assert trainer.best_weights is not None, "a training evaluates at step 0"
    save_state(folder / FILES["best"], trainer.best_weights.tensors)
    save_whole(folder / OPTIMIZER, trainer.optimizer.state_dict())


def write_history(path: Path, history: list[Evaluation]) -> None:
    """`history.csv`; floats in full, so that they equal MLflow's."""
    rows = [",".join(repr(value) for value in asdict(row).values()) for row in history]
    write_text(path, "\n".join([",".join(HISTORY), *rows]) + "\n")


def summary(model: GPT, history: list[Evaluation], best: Evaluation) -> dict[str, Any]:
    """What `train.json` holds; `overfit` is the rise of validation loss since its best, in nats."""
    last = history[-1]
    return {
        "parameters": model.count_parameters(),
        "steps": last.step,
        "tokens_seen": last.tokens_seen,
        "best": {"step": best.step, "epoch": best.epoch, "val_loss": best.val_loss},
        "last": {"train_loss": last.train_loss, "val_loss": last.val_loss},
        "overfit": last.val_loss - best.val_loss,
    }


def verdict(history: list[Evaluation], best: Evaluation) -> str:
    """Where validation was best and what came of it since, in a sentence."""
    last = history[-1]
    where = f"epoch {best.epoch:.1f} (step {best.step})"
    found = f"validation loss was best at {where}: {best.val_loss:.3f}"
    if best.step == last.step:
        return f"{found}, the last evaluation; it may fall further with more epochs"
    return (
        f"{found}; since then it rose by {last.val_loss - best.val_loss:.3f} to "
        f"{last.val_loss:.3f} while training loss fell to {last.train_loss:.3f}"
    )
