"""Remarks on real trainings, each made to show what one of them explains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.comparison.remarks import RunNumbers, remarks
from pipeline.comparison.table import Comparison
from pipeline.model.perplexity import measure
from pipeline.params import Params
from pipeline.reports import EvaluationReport, SplitCounts, SplitLosses, SplitReport
from pipeline.tokens.splits import Splits
from pipeline.training.outputs import summary
from tests.helpers.tokens import write_split
from tests.helpers.trainers import CONFIG

Remarks = Callable[..., str]
PATTERN = np.random.default_rng(0).integers(0, 64, 23)


@pytest.fixture
def explain(make_trainer, tokens: Path) -> Remarks:
    """Trains, measures, and returns the remarks in one text."""

    def explain(dropout: float = 0.0, **train: Any) -> str:
        train = {"eval_every": 2, **train}
        trainer, _ = make_trainer(replace(CONFIG, dropout=dropout), **train)
        splits = Splits.open(tokens, 8)

        def losses() -> SplitLosses:
            found = {name: measure(trainer.model, one, 4) for name, one in splits.windows.items()}
            return SplitLosses(**found)

        untrained = losses()
        trainer.run()
        last = losses()
        evaluation = EvaluationReport(
            corpus_sha256="c",
            context_length=8,
            train=last.train,
            val=last.val,
            best=last,
            untrained=untrained,
        )
        steps = trainer.spikes.state()[-trainer.batches.steps_per_epoch :]
        training = summary(trainer.model, trainer.history, trainer.best, steps)
        params = Params.model_validate({"model": {"dropout": dropout}, "train": train})
        counts = SplitCounts(tokens=1, documents=1, characters=1, bytes=1)
        split = SplitReport(corpus="c", corpus_sha256="c", train=counts, val=counts)
        comparison = Comparison({}, evaluation, training)
        return "\n".join(remarks(RunNumbers.of(params, comparison, trainer.history, splits, split)))

    return explain


def test_dropout_alone_puts_the_steps_losses_above_validation(
    tokens: Path, explain: Remarks
) -> None:
    write_split(tokens / "val", np.resize(PATTERN, 41))  # as the training text goes on
    settings = {"epochs": 8, "learning_rate": 1e-2, "eval_every": 10}
    text = explain(dropout=0.5, **settings)
    assert "its own batch with dropout 0.5. Without it the training loss was" in text
    assert "Without it" not in explain(dropout=0.0, **settings)


def test_an_easy_validation_text(tokens: Path, explain: Remarks) -> None:
    noise = np.random.default_rng(1).integers(0, 64, 80)
    write_split(tokens / "train", [*np.resize(PATTERN, 81), *noise])
    write_split(tokens / "val", np.resize(PATTERN, 41))
    text = explain(epochs=8, learning_rate=1e-2)
    assert "With the last weights the training text takes" in text
    assert "over 20 and 5 windows" in text


def test_a_learning_rate_that_is_too_high(explain: Remarks) -> None:
    assert "the training diverged: lower train.learning_rate" in explain(learning_rate=3.0)


def test_a_learning_rate_that_is_too_low(explain: Remarks) -> None:
    text = explain(learning_rate=1e-5)
    assert "20 steps at train.learning_rate 1e-05 move the weights too little" in text
    text = explain(learning_rate=1e-3, warmup_steps=1000)
    assert "20 steps of the warm-up to train.learning_rate 0.001 move the weights" in text
    assert "train.warmup_steps is 1,000, and the training took 20 steps" in text


def test_a_schedule_that_has_ended(explain: Remarks) -> None:
    text = explain(learning_rate=1e-2, schedule="cosine", epochs=8)
    assert "train.schedule cosine has the learning rate, 0.01 at its peak, at 0.0009" in text
    assert "train.schedule" not in explain(learning_rate=1e-2, epochs=8)


def test_a_model_that_knows_less_than_frequencies(tokens: Path, explain: Remarks) -> None:
    drawn = np.random.default_rng(2).zipf(1.6, 1000) % 60
    write_split(tokens / "train", drawn[:801])
    write_split(tokens / "val", drawn[-41:])
    text = explain(max_steps=12, learning_rate=3e-3)
    assert "the model is no better than a count of tokens" in text
