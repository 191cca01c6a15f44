"""Every model's losses on one text, side by side: the untrained, the trained, and GPT-2's.

Only like is compared with like: numbers measured on another corpus, context length, windows or
tokens are refused. A GPT-2 size that could not be had keeps its row, in words; nothing stands in
the table as a number that was not measured here, but for the book's own in their own column.

The published losses are those of chapter 5 of *Build a Large Language Model (From Scratch)* and
its notebook: "The Verdict", the last tenth of its characters, windows of 256 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.reports import (
    Baseline,
    Completion,
    Evaluation,
    Losses,
    SplitLosses,
    Training,
)

GPT2_NAMES = {
    "124M": "GPT-2 small",
    "355M": "GPT-2 medium",
    "774M": "GPT-2 large",
    "1558M": "GPT-2 XL",
}
UNTRAINED = "untrained"  # the name of random weights; those of a fine-tuning are not
THE_VERDICT_SHA256 = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"
PUBLISHED_VAL_LOSS = {"124M": 3.5596, "1558M": 3.1195}
PUBLISHED_CONTEXT_LENGTH = 256
PUBLISHED_VAL_WINDOWS = 2


@dataclass(frozen=True)
class Row:
    """One model of `comparison.csv`; losses in nats a token, None where nothing was measured."""

    model: str
    parameters: int | None
    train_loss: float | None
    val_loss: float | None
    val_perplexity: float | None
    val_bits_per_byte: float | None
    published_val_loss: float | None
    status: str


@dataclass(frozen=True)
class Comparison:
    """The rows in their order and what each model wrote, by key.

    The keys are `untrained`, `scratch_best`, `scratch_last` and `gpt2_SIZE`.

    Attributes:
        evaluation: what every row was measured on.
        training: the scratch model's size and best point.
        completions: prompt to continuation, for the models that have any.
    """

    rows: dict[str, Row]
    evaluation: Evaluation
    training: Training
    completions: dict[str, dict[str, str]]

    def as_json(self, verdict: str) -> dict[str, Any]:
        """The verdict, the rows, and their numbers nested by model, as `dvc metrics` reads them."""
        return {
            "verdict": verdict,
            "rows": [asdict(row) for row in self.rows.values()],
            "models": self.as_numbers(),
        }

    def as_numbers(self) -> dict[str, dict[str, float]]:
        """What was measured, by model."""
        names = ("train_loss", "val_loss", "val_perplexity", "val_bits_per_byte")
        return {
            key: {name: getattr(row, name) for name in names}
            for key, row in self.rows.items()
            if row.val_loss is not None
        }


def compare(
    evaluation: Path,
    training: Path,
    baselines: Path,
    sizes: Sequence[str],
    *,
    start: str = "scratch",
) -> Comparison:
    """Put the scratch model's losses beside those of the GPT-2 `sizes`.

    Args:
        evaluation: `reports/evaluate.json`.
        training: `reports/train.json`.
        baselines: the folder of `SIZE.json` files; those of other sizes are not looked at.
        sizes: as `gpt2.sizes` names them; the rows come in order of size.
        start: what training started from, for the names of the trained rows.

    Raises:
        UserError: a file is missing or misshapen, or a size was measured on something else.
    """
    scratch = Evaluation.read(evaluation)
    trained = Training.read(training)
    rows = _scratch_rows(scratch, trained.parameters, start)
    completions = {f"scratch_{which}": _by_prompt(c) for which, c in scratch.completions.items()}
    for size in (size for size in GPT2_NAMES if size in sizes):
        path = baselines / f"{size}.json"
        baseline = _read_baseline(path)
        if baseline.status == "measured":
            _require_same_measure(evaluation, scratch, path, baseline)
        key = f"gpt2_{size}"
        rows[key] = _gpt2_row(size, baseline, scratch)
        completions[key] = _by_prompt(baseline.completions)
    return Comparison(
        rows=rows,
        evaluation=scratch,
        training=trained,
        completions={key: texts for key, texts in completions.items() if texts},
    )


def _read_baseline(path: Path) -> Baseline:
    if path.exists():
        return Baseline.read(path)
    return Baseline(status="unavailable", reason=f"`dvc repro baseline@{path.stem}` measures it")


def _scratch_rows(scratch: Evaluation, parameters: int, start: str) -> dict[str, Row]:
    fresh = start == "scratch"
    name = "scratch" if fresh else f"from {start}"
    measured: dict[str, tuple[str, Losses]] = {
        "untrained": (UNTRAINED if fresh else "before training", scratch.untrained),
        "scratch_best": (f"{name} (best)", scratch.best),
        "scratch_last": (f"{name} (last)", scratch),
    }
    return {
        key: _measured_row(model, parameters, losses.train, losses.val, None)
        for key, (model, losses) in measured.items()
    }


def _gpt2_row(size: str, baseline: Baseline, scratch: Evaluation) -> Row:
    name = f"{GPT2_NAMES[size]} ({size})"
    published = _published(size, scratch)
    if baseline.status == "unavailable":
        reason = " ".join((baseline.reason or "the reason was not recorded").split())
        status = f"unavailable: {reason}"
        return Row(name, None, None, None, None, None, published, status)
    assert baseline.parameters is not None  # the record checked that all three are there
    assert baseline.train is not None
    assert baseline.val is not None
    return _measured_row(name, baseline.parameters, baseline.train, baseline.val, published)


def _measured_row(
    name: str, parameters: int, train: SplitLosses, val: SplitLosses, published: float | None
) -> Row:
    return Row(
        model=name,
        parameters=parameters,
        train_loss=train.loss,
        val_loss=val.loss,
        val_perplexity=val.perplexity,
        val_bits_per_byte=val.bits_per_byte,
        published_val_loss=published,
        status="measured",
    )


def _published(size: str, scratch: Evaluation) -> float | None:
    """The book's value, if these are the book's text, windows and split."""
    measured_on = (scratch.corpus_sha256, scratch.context_length, scratch.val.windows)
    published_on = (THE_VERDICT_SHA256, PUBLISHED_CONTEXT_LENGTH, PUBLISHED_VAL_WINDOWS)
    return PUBLISHED_VAL_LOSS.get(size) if measured_on == published_on else None


def _require_same_measure(
    evaluation: Path, scratch: Evaluation, path: Path, baseline: Baseline
) -> None:
    here, there = _measured_on(scratch), _measured_on(baseline)
    for key, value in here.items():
        if there[key] != value:
            raise UserError(
                f"{evaluation} and {path} cannot be compared: {key} is {value} in the first and "
                f"{there[key]} in the second; `dvc repro` measures both on the same tokens"
            )


def _measured_on(record: Evaluation | Baseline) -> dict[str, object]:
    assert record.train is not None
    assert record.val is not None
    return {
        "corpus_sha256": record.corpus_sha256,
        "context_length": record.context_length,
        "train.windows": record.train.windows,
        "train.tokens": record.train.tokens,
        "val.windows": record.val.windows,
        "val.tokens": record.val.tokens,
    }


def _by_prompt(completions: Sequence[Completion]) -> dict[str, str]:
    return {completion.prompt: completion.completion for completion in completions}
