"""A tiny corpus on disk, a tiny model, and an observer that remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.model.gpt import GPT, GPTConfig, initialise
from pipeline.model.runtime import Runtime
from pipeline.params import Train
from pipeline.reports import HistoryRow
from pipeline.tokens.windows import Windows
from pipeline.training.batches import Batches
from pipeline.training.checkpoint import Checkpoint, Stored
from pipeline.training.checkpointer import Checkpointer
from pipeline.training.events import Step
from pipeline.training.loop import Trainer
from pipeline.training.optim import build_optimizer
from pipeline.training.snapshot import Snapshot
from tests.helpers.tokens import write_split

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, context_length=8, vocab_size=64, dropout=0.1)
CPU = Runtime(torch.device("cpu"), bf16=False)


@dataclass
class Memory:
    """An observer that remembers everything."""

    steps: list[Step] = field(default_factory=list)
    evaluations: list[HistoryRow] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    averages: list[float | None] = field(default_factory=list)

    def on_step(self, step: Step) -> None:
        self.steps.append(step)

    def on_evaluation(self, row: HistoryRow, ema_val_loss: float | None = None) -> None:
        self.evaluations.append(row)
        self.averages.append(ema_val_loss)

    def on_sample(self, unit: str, number: int, model: GPT) -> None:
        self.samples.append(f"{unit} {number}")

    def state(self) -> list[str]:
        return list(self.samples)

    def restore(self, state: list[str]) -> None:
        self.samples = state


def checkpoint_of(stored: Stored, step: int) -> Checkpoint:
    """What was found, as the checkpoint of another step."""
    weights, best, optimizer = map(stored.joined, ("weights", "best", "optimizer"))
    manifest = stored.manifest
    at_best = Snapshot(manifest.best_step, best)
    return Checkpoint(step, Snapshot(manifest.step, weights), at_best, optimizer, manifest.record)


@pytest.fixture
def config() -> GPTConfig:
    return CONFIG


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """`train`: 20 windows of 8 that repeat a pattern; `val`: 5."""
    pattern = np.random.default_rng(0).integers(0, 64, 23)
    write_split(tmp_path / "tokens" / "train", np.resize(pattern, 161))
    write_split(tmp_path / "tokens" / "val", np.resize(pattern[::-1], 41))
    return tmp_path / "tokens"


@pytest.fixture
def make_trainer(tokens: Path):
    def make(
        config: GPTConfig = CONFIG,
        runtime: Runtime = CPU,
        seed: int = 1,
        checkpoints: Checkpointer | None = None,
        **train: object,
    ) -> tuple[Trainer, Memory]:
        settings = Train.model_validate({"epochs": 2, "learning_rate": 3e-3, **train})
        model = GPT(config)
        initialise(model, "gpt2", seed)
        memory = Memory()
        windows = [Windows.open(tokens / split, 8) for split in ("train", "val")]
        optimizer = build_optimizer(model, settings)
        batches = Batches(len(windows[0]), settings, seed)
        trainer = Trainer(
            model, optimizer, *windows, batches, settings, runtime, memory, checkpoints
        )
        return trainer, memory

    return make
