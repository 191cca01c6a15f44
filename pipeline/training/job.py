"""A training, made ready from params and tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from pipeline.distributed.world import ALONE, World
from pipeline.errors import UserError
from pipeline.model.objective import compiles
from pipeline.model.runtime import Runtime, choose_runtime
from pipeline.model.saved import save_config, save_weights
from pipeline.model.start import Start
from pipeline.params import Params
from pipeline.system.checksums import SUMS
from pipeline.system.files import folder_aside
from pipeline.tokens.windows import Windows
from pipeline.training.batch_size import with_largest_batch
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Stored
from pipeline.training.checkpointer import Checkpointer, shared
from pipeline.training.events import Diverged, Observer
from pipeline.training.fingerprint import code_of, fingerprint
from pipeline.training.initial_state import initial_state
from pipeline.training.loop import Trainer
from pipeline.training.stopping import total_steps
from pipeline.weights import Source, find_start

# They change what is computed by rounding only, or by dropout where processes are several.
WITHOUT_EFFECT = {"checkpoint_every", "launcher", "processes", "replicas", "sharding"}


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
    def open(cls, params: Params, tokens: Path, world: World = ALONE) -> TrainingJob:
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
        world.check_replicas(params.train)
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
                *(w.tokens.folder / SUMS for w in (self.train_windows, self.val_windows)),
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
        """A trainer at the latest checkpoint, or at step 0.

        Rank 0 has the checkpoints; the others get from it what they need, or read and write shards
        in its folder.

        Raises:
            UserError: the training cannot start from what the params name, or ranks differ.
        """
        world, runtime = self.world, self._agreed_runtime()
        model, optimizer = initial_state(self.params, self.start, self.source, runtime, world)
        shard, checkpoints = shared(checkpoints, world, world.shard(self.params.train))
        trainer = Trainer(
            model,
            optimizer,
            self.train_windows,
            self.val_windows,
            self.batches,
            self.params.train,
            runtime,
            observer,
            checkpoints,
            world,
            shard,
        )
        found = None
        if world.is_first and checkpoints is not None:
            found = checkpoints.latest(trainer.check)
        manifest = world.broadcast(found.manifest if found is not None else None)
        if manifest is None:
            return trainer
        if found is None and checkpoints is not None:  # another rank, which reads its shard
            found = checkpoints.store.load(manifest)
        trainer.restore(found or Stored(manifest, {}))
        return trainer

    def _agreed_runtime(self) -> Runtime:
        """With rank 0's precision; `auto` may find another one on another machine."""
        self.world.check_first_is_here()
        runtime = replace(self.runtime, bf16=self.world.broadcast(self.runtime.bf16))
        fingerprint = replace(self, runtime=runtime).fingerprint
        self.world.check_same(fingerprint, "params, tokens, first weights or code")
        return runtime

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
            with folder_aside(rescue) as aside:
                save_config(aside, trainer.model.config)
                save_weights(aside, trainer.best_weights.tensors, "last")
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
