"""Every `reports/*.json`, one record each, for the stage that writes it and those that read it.

A file that is missing, or that lacks a key or has a wrong one, is one line that names both; keys
that a reader does not know are left alone.
"""

from __future__ import annotations

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


class BestPoint(Record):
    epoch: float


class Training(Record):
    """`reports/train.json`."""

    parameters: int
    best: BestPoint


class TrainRun(Record):
    """`reports/train_run.json`."""

    run: str = ""
    name: str = ""


# evaluate, fetch_gpt2 and baseline


class Losses(Record):
    """A model's losses over the windows of one split.

    Attributes:
        loss: nats per token.
        perplexity: exp(loss).
        bits_per_byte: the loss in bits over the UTF-8 bytes of the target tokens, which makes
            models with different tokenizers comparable.
        tokens: target tokens.
        windows: windows of `context_length` tokens.
    """

    loss: float
    perplexity: float
    bits_per_byte: float
    tokens: int
    windows: int


class SplitLosses(Record):
    """A model's losses over both splits."""

    train: Losses
    val: Losses


class PromptCompletion(Record):
    """A model's greedy continuation of a prompt."""

    prompt: str
    completion: str


class EvaluationReport(Record):
    """`reports/evaluate.json`: `train` and `val` are of the last weights."""

    corpus_sha256: str
    context_length: int
    train: Losses
    val: Losses
    best: SplitLosses
    untrained: SplitLosses
    completions: dict[Literal["best", "last"], tuple[PromptCompletion, ...]] = {}

    @property
    def last(self) -> SplitLosses:
        return SplitLosses(train=self.train, val=self.val)


class PerplexityReport(Record):
    """`reports/perplexity.json`: what runs are compared by beside the losses in `train.json`."""

    val_perplexity: float
    val_bits_per_byte: float
    best_val_perplexity: float
    best_val_bits_per_byte: float


class TokenLossesReport(Record):
    """`reports/token_losses/*.json`: each model's nats for each of the same target tokens."""

    corpus_sha256: str
    context_length: int = Field(ge=1)
    tokens: tuple[int, ...]
    models: dict[str, tuple[float, ...]]

    @model_validator(mode="after")
    def one_loss_per_token(self) -> TokenLossesReport:
        for model, losses in self.models.items():
            if len(losses) != len(self.tokens):
                raise PydanticCustomError(
                    "length",
                    "models.{model} has {losses} losses for {tokens} tokens",
                    {"model": model, "losses": len(losses), "tokens": len(self.tokens)},
                )
        return self


class WeightsFile(Record):
    """A file of GPT-2's weights."""

    bytes: int
    sha256: str


class WeightsReport(Record):
    """`reports/gpt2/SIZE.json`: the files of a size, or why they cannot be had."""

    model: str
    status: Literal["available", "unavailable"]
    reason: str | None = None
    source: str
    files: dict[str, WeightsFile] = {}


class BaselineReport(Record):
    """`reports/baselines/SIZE.json`; the losses are there when `status` is `measured`."""

    model: str
    status: Literal["measured", "unavailable"]
    reason: str | None = None
    parameters: int | None = None
    precision: str | None = None
    context_length: int | None = None
    corpus_sha256: str | None = None
    train: Losses | None = None
    val: Losses | None = None
    completions: tuple[PromptCompletion, ...] = ()

    @model_validator(mode="after")
    def measured_has_numbers(self) -> BaselineReport:
        needed = ("parameters", "context_length", "corpus_sha256", "train", "val")
        missing = [name for name in needed if getattr(self, name) is None]
        if self.status == "measured" and missing:
            raise PydanticCustomError(
                "measured", "is measured but lacks {names}", {"names": ", ".join(missing)}
            )
        return self


# compare


class ComparisonReport(Record):
    """`reports/comparison.json`.

    Attributes:
        rows: a model's cells by column, as `comparison.csv` has them.
        models: a model's measured numbers by column, for `dvc metrics`.
    """

    verdict: str
    rows: tuple[dict[str, Any], ...]
    models: dict[str, dict[str, float]]


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
