"""Every `reports/*.json`, one record each, for the stage that writes it and those that read it.

A file that is missing, or that lacks a key or has a wrong one, is one line that names both; keys
that a reader does not know are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pipeline.errors import UserError
from pipeline.system.files import read_json, write_json


class Record(BaseModel):
    """A JSON file of `reports/`, or a part of one: writers construct it, readers load it."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, protected_namespaces=())

    def write(self, path: Path) -> None:
        """Write the record, its keys in the order of its fields."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Load the record from `path`.

        Raises:
            UserError: the file is missing, is not JSON, or lacks a key or has a wrong one; names
                the file and the key.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"][:1].lower() + problem["msg"][1:]
            detail = f"{key}: {message}" if key else message
            raise UserError(f"{path}: {detail}; `dvc repro -f` rewrites it") from None


# prepare and split


class CorpusReport(Record):
    """`reports/corpus.json`."""

    corpus: str
    sha256: str
    documents: int
    characters: int
    source: str
    skipped: dict[str, int] = Field(default_factory=dict)
    statistics: dict[str, Any] | None = None


class SplitSide(Record):
    tokens: int


class SplitReport(Record):
    """`reports/split.json`."""

    train: SplitSide
    val: SplitSide
    test: SplitSide | None = None
    statistics: dict[str, Any] | None = None


# train


@dataclass(frozen=True)
class HistoryRow:
    """A row of `reports/history.csv`: an evaluation after `step` optimizer steps; 0 is untrained.

    Losses are in nats per token. What MLflow shows carries its metric's name: `metric` and
    `perplexity`, exp(loss), by step; `by_tokens` by `tokens_seen`.
    """

    step: int
    epoch: float = field(metadata={"metric": "eval/epoch"})
    tokens_seen: int
    train_loss: float = field(
        metadata={
            "metric": "eval/train_loss",
            "perplexity": "eval/train_perplexity",
            "by_tokens": "by_tokens/train_loss",
        }
    )
    val_loss: float = field(
        metadata={
            "metric": "eval/val_loss",
            "perplexity": "eval/val_perplexity",
            "by_tokens": "by_tokens/val_loss",
        }
    )
    learning_rate: float


HISTORY_COLUMNS = tuple(column.name for column in fields(HistoryRow))


class BestEvaluation(Record):
    step: int
    epoch: float
    val_loss: float


class LastEvaluation(Record):
    train_loss: float
    val_loss: float


class Training(Record):
    """`reports/train.json`.

    Attributes:
        overfit: the rise of validation loss since its best, in nats per token.
    """

    parameters: int
    steps: int
    tokens_seen: int
    best: BestEvaluation
    last: LastEvaluation
    overfit: float


class TrainRun(Record):
    """`reports/train_run.json`."""

    run: str = ""
    name: str = ""


# evaluate, fetch_gpt2 and baseline


class SplitLosses(Record):
    """A model's losses over one split: nats a token, exp(loss), and bits a UTF-8 byte."""

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    windows: int


class Losses(Record):
    train: SplitLosses
    val: SplitLosses


class Completion(Record):
    prompt: str
    completion: str


class Evaluation(Losses):
    """`reports/evaluate.json`; its own `train` and `val` are those of the last weights."""

    context_length: int
    corpus_sha256: str
    best: Losses
    untrained: Losses
    completions: dict[Literal["best", "last"], tuple[Completion, ...]] = {}


class Baseline(Record):
    """`reports/baselines/SIZE.json`; the losses are there when `status` is `measured`."""

    status: Literal["measured", "unavailable"]
    reason: str | None = None
    parameters: int | None = None
    context_length: int | None = None
    corpus_sha256: str | None = None
    train: SplitLosses | None = None
    val: SplitLosses | None = None
    completions: tuple[Completion, ...] = ()

    @model_validator(mode="after")
    def measured_has_numbers(self) -> Baseline:
        needed = ("parameters", "context_length", "corpus_sha256", "train", "val")
        missing = [name for name in needed if getattr(self, name) is None]
        if self.status == "measured" and missing:
            raise PydanticCustomError(
                "measured", "is measured but lacks {names}", {"names": ", ".join(missing)}
            )
        return self


class TokenLosses(Record):
    """`reports/token_losses/*.json`: each model's nats for each of the same target tokens."""

    corpus_sha256: str
    context_length: int = Field(ge=1)
    tokens: tuple[int, ...]
    models: dict[str, tuple[float, ...]]

    @model_validator(mode="after")
    def one_loss_a_token(self) -> TokenLosses:
        for model, losses in self.models.items():
            if len(losses) != len(self.tokens):
                raise PydanticCustomError(
                    "length",
                    "models.{model} has {losses} losses for {tokens} tokens",
                    {"model": model, "losses": len(losses), "tokens": len(self.tokens)},
                )
        return self


# sample


class Sample(Record):
    prompt: str
    completion: str
    temperature: float
    top_k: int | None = None
    copies: tuple[tuple[int, int], ...] = ()
    longest_copy: str = ""
    longest_copy_tokens: int = 0


class SampleReport(Record):
    """What the page shows of `reports/sampling_grid.json`."""

    samples: tuple[Sample, ...] = ()
    grid: tuple[dict[str, Any], ...] = ()
