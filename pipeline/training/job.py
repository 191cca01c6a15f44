"""A training, made ready from params and tokens, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from pipeline.distributed.base import load_optimizer
from pipeline.distributed.parallel import place
from pipeline.distributed.world import ALONE, World
from pipeline.errors import UserError
from pipeline.model.gpt import GPT
from pipeline.model.objective import compiles
from pipeline.model.runtime import Runtime, choose_runtime
from pipeline.model.saved import FILES, OPTIMIZER, save_config, save_weights, save_whole
from pipeline.model.start import Start, config_of
from pipeline.params import Params
from pipeline.system.digests import Digests
from pipeline.system.files import write_text
from pipeline.tokens.windows import Windows
from pipeline.training.batch_size import with_largest_batch
from pipeline.training.batches import Batches
from pipeline.training.checkpointer import Checkpointer
from pipeline.training.events import Diverged, Evaluation, Observer, Silent
from pipeline.training.fingerprint import code_of, fingerprint
from pipeline.training.loop import Trainer
from pipeline.training.optim import build_optimizer, starting_optimizer
from pipeline.training.schedule import total_steps
from pipeline.weights import Source, find_start, starting_model

HISTORY = tuple(Evaluation.__dataclass_fields__)
# On what is computed, but for rounding, and for dropout where processes are several.
WITHOUT_EFFECT = {"checkpoint_every", "processes", "sharding"}


@dataclass(frozen=True)
class TrainingJob:
    """What will be trained, on what, where; refused here if it cannot be, before any work."""

    params: Params
    train_windows: Windows
    val_windows: Windows
    batches: Batches
    runtime: Runtime
    world: World = ALONE
    source: Source | None = None  # of the first weights; None: random

    @classmethod
    def open(
        cls,
        params: Params,
        tokens: Path,
        world: World = ALONE,
    ) -> TrainingJob:
        """Map the tokens, choose the device, find the weights to start from.

        Raises:
            UserError: a split is missing or too short, the device is not there, or it cannot do
                what is asked of it.
        """
        train, val = (
            Windows.open(tokens / split, params.model.context_length) for split in ("train", "val")
        )
        runtime = choose_runtime(world.device(params.train.device), params.train.precision)
        compiles(params.train, runtime.device)
        if params.train.batch_size == "auto":
            world.check_alone("train.batch_size: auto")
            params = with_largest_batch(params, len(train), runtime)
        batches = Batches(len(train), params.train, params.seed, world.rank, world.size)
        source = find_start(params.train.init_from)
        return cls(params, train, val, batches, runtime, world, source)

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
                *(self.source.files if self.source is not None else ()),
            ],
            code=code_of("train"),
        )

    @property
    def start(self) -> Start:
        params = self.params
        return Start(init_from=params.train.init_from, init=params.model.init, seed=params.seed)

    @property
    def total_steps(self) -> int:
        return total_steps(self.batches.steps_per_epoch, self.params.train)

    def trainer(self, observer: Observer, checkpoints: Checkpointer | None = None) -> Trainer:
        """A trainer where the latest checkpoint left off, or at step 0: weights, optimizer.

        Rank 0 has the checkpoints; the others get from it what they need.

        Raises:
            UserError: the training cannot start from what the params name, or ranks differ.
        """
        settings, world = self.params.train, self.world
        runtime = self._agreed_runtime()
        model, optimizer = self._start(runtime)
        trainer = Trainer(
            model,
            optimizer,
            self.train_windows,
            self.val_windows,
            self.batches,
            settings,
            runtime,
            observer,
            checkpoints,
            world,
        )
        found = checkpoints.latest() if checkpoints is not None else None
        outline = world.agreed(found.without_tensors() if found is not None else None)
        if outline is not None:
            trainer.restore(found or outline)
        return trainer

    def _agreed_runtime(self) -> Runtime:
        """With rank 0's precision; `auto` may find another one on another machine."""
        runtime = replace(self.runtime, bf16=self.world.agreed(self.runtime.bf16))
        fingerprint = replace(self, runtime=runtime).fingerprint
        self.world.check_same(fingerprint, "params, tokens, first weights or code")
        return runtime

    def _start(self, runtime: Runtime) -> tuple[GPT, Optimizer]:
        """Model and optimizer at step 0, on this rank's device."""
        params, world = self.params, self.world
        settings, config = params.train, config_of(params.model)
        whole = None
        if world.is_first:
            whole = starting_model(config, self.start, self.source, params.gpt2)
        model = place(world, whole, config, runtime, sharded=world.shards(settings))
        optimizer = build_optimizer(model, settings)
        first, restored = optimizer, False
        if whole is not None:
            first = optimizer if whole is model else build_optimizer(whole, settings)
            folder = self.source.folder if self.source is not None else None
            restored = starting_optimizer(first, folder, settings.init_optimizer)
        if world.agreed(restored) and not world.is_alone:
            load_optimizer(world, model, optimizer, first.state_dict())
        return model, optimizer

    def follow(self) -> None:
        """Train as a rank that nobody hears of."""
        with suppress(Diverged):  # rank 0 says so
            self.trainer(Silent()).run()

    def run(self, trainer: Trainer, rescue: Path) -> None:
        """Train; where the loss diverges, leave the best weights in the folder `rescue`.

        Raises:
            Diverged: a loss is not finite.
            UserError: the GPU's memory does not do.
        """
        try:
            trainer.run()
        except torch.OutOfMemoryError as error:
            raise UserError(_memory_is_short(self.params, error)) from None
        except Diverged as error:
            if trainer.best_weights is None:
                raise
            save_config(rescue, trainer.model.config)
            save_weights(rescue, trainer.best_weights.tensors, "last")
            step = trainer.best_weights.step
            raise Diverged(
                f"{error}; the best weights, of step {step}, are kept in {rescue}"
            ) from None


def _memory_is_short(params: Params, error: torch.OutOfMemoryError) -> str:
    first_sentence = str(error).partition(". ")[0]
    return (
        f"train.batch_size: {params.train.batch_size} windows do not fit into this GPU's memory "
        f"({first_sentence}); lower it with a larger train.gradient_accumulation, set it to auto, "
        "or set train.activation_checkpointing: true"
    )


def save_training(
    folder: Path,
    trainer: Trainer,
    start: Start,
    on_saved: Callable[[str, Digests], None] = lambda name, digests: None,
) -> None:
    """Write the folder of a trained model: config, start, best and last weights, optimizer.

    Args:
        on_saved: told each large file's name, once it is there, and its digests.
    """
    assert trainer.best_weights is not None, "a training evaluates at step 0"
    assert trainer.last_weights is not None, "a training hands them over at its end"
    save_config(folder, trainer.model.config)
    start.save(folder)
    best, last = trainer.best_weights.tensors, trainer.last_weights.tensors
    on_saved(FILES["best"], save_weights(folder, best, "best"))
    on_saved(FILES["last"], save_weights(folder, last, "last"))
    on_saved(OPTIMIZER, save_whole(folder / OPTIMIZER, trainer.last_optimizer))


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
