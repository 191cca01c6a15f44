"""Which numbers of a training go into its run, under which names."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest

from pipeline.reports import HistoryRow
from pipeline.training.events import Step
from pipeline.training.recorder import Recorder

STEP = Step(
    step=3,
    epoch=0.5,
    tokens_seen=96,
    tokens=32,
    seconds=0.5,
    loss=2.0,
    learning_rate=1e-3,
    tokens_per_second=64.0,
    grad_norm=None,
    mfu=None,
    gpu_memory_megabytes=None,
    loss_spike=None,
)
ROW = HistoryRow(3, 0.5, 96, train_loss=1.0, val_loss=2.0, learning_rate=1e-3)


class FakeRun:
    def __init__(self) -> None:
        self.metrics: dict[tuple[str, int], float] = {}
        self.tags: dict[str, str] = {}
        self.texts: dict[str, str] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics |= {(name, step): value for name, value in metrics.items()}

    def log_text(self, text: str, path: str) -> None:
        self.texts[path] = text

    def set_tags(self, tags: dict[str, str]) -> None:
        self.tags |= tags


class FakeBar:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def advance(self, count: int, **shown: str) -> None:
        self.lines.append(f"{count} {shown}")

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def recorder() -> Any:
    return Recorder(FakeRun(), FakeBar(), lambda model: {})  # type: ignore[arg-type]


def test_a_steps_numbers_that_were_measured(recorder: Any) -> None:
    recorder.on_step(STEP)
    assert recorder.run.metrics == {
        ("train/loss", 3): 2.0,
        ("train/learning_rate", 3): 1e-3,
        ("train/tokens_per_second", 3): 64.0,
    }
    assert recorder.bar.lines == ["1 {'loss': '2.000', 'tokens/s': '64'}"]


def test_all_numbers_of_a_step(recorder: Any) -> None:
    measured = {"grad_norm": 1.5, "mfu": 0.4, "gpu_memory_megabytes": 8.0, "loss_spike": 2.0}
    recorder.on_step(Step(**{**asdict(STEP), **measured}))
    for name, value in measured.items():
        assert recorder.run.metrics[f"train/{name}", 3] == value
    assert recorder.run.tags == {"loss_spikes": "1 (step 3)"}


def test_an_evaluation_by_step_and_by_tokens(recorder: Any) -> None:
    recorder.on_evaluation(ROW)
    assert recorder.run.metrics == {
        ("eval/epoch", 3): 0.5,
        ("eval/train_loss", 3): 1.0,
        ("eval/train_perplexity", 3): math.exp(1.0),
        ("eval/val_loss", 3): 2.0,
        ("eval/val_perplexity", 3): math.exp(2.0),
        ("by_tokens/train_loss", 96): 1.0,
        ("by_tokens/val_loss", 96): 2.0,
    }
    assert "epoch 0.50, step 3: training loss 1.000, validation loss 2.000" in recorder.bar.lines


def test_averaged_weights_have_a_metric_of_their_own(recorder: Any) -> None:
    recorder.on_evaluation(ROW, 1.75)
    assert recorder.run.metrics["eval/ema_val_loss", 3] == 1.75
    assert recorder.run.metrics["eval/val_loss", 3] == 2.0
    assert recorder.bar.lines[-1].endswith("loss 2.000, of the averaged weights 1.750")


def test_a_loss_whose_perplexity_is_no_float(recorder: Any) -> None:
    recorder.on_evaluation(replace(ROW, train_loss=709.0, val_loss=1207.4))
    assert recorder.run.metrics["eval/train_perplexity", 3] == math.exp(709.0)
    assert recorder.run.metrics["eval/val_perplexity", 3] == math.inf
    assert "training loss 709.000, validation loss 1,207.400" in recorder.bar.lines[-1]


def test_samples_are_named_by_epochs_or_by_steps(recorder: Any) -> None:
    recorder.sample = lambda model: {"prompt": "It", "completion": " is\nso"}
    recorder.on_sample("epoch", 2, None)
    recorder.on_sample("step", 5000, None)
    assert recorder.bar.lines == ["epoch 2: It is so", "step 5000: It is so"]
    assert [row["weights"] for row in recorder.samples] == ["epoch 2", "step 5000"]
    text = "It is\nso\n"
    assert recorder.run.texts == {
        "samples/epoch_002.txt": text,
        "samples/step_000005000.txt": text,
    }


def test_a_new_metric_is_one_field(recorder: Any) -> None:
    @dataclass(frozen=True)
    class MoreOfAStep(Step):
        update_norm: float = field(metadata={"metric": "train/update_norm"})

    @dataclass(frozen=True)
    class MoreOfARow(HistoryRow):
        accuracy: float = field(metadata={"metric": "eval/val_accuracy"})

    recorder.on_step(MoreOfAStep(**asdict(STEP), update_norm=0.25))
    recorder.on_evaluation(MoreOfARow(**asdict(ROW), accuracy=0.75))
    assert recorder.run.metrics["train/update_norm", 3] == 0.25
    assert recorder.run.metrics["eval/val_accuracy", 3] == 0.75
