"""Every `reports/*.json`, one record each, for the stage that writes it and those that read it.

A file that is missing, or that lacks a key or has a wrong one, is one line that names both; keys
that a reader does not know are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from pipeline.system.records import Record, SealedRecord

# prepare and split


def _is_none(value: Any) -> bool:
    return value is None


class CorpusIdentity(Record):
    """`reports/identity.json`: what DVC cannot watch; of a local corpus the files' digest."""

    corpus: str
    files: int | None = Field(None, exclude_if=_is_none)
    sha256: str | None = Field(None, exclude_if=_is_none)


class FirstWeights(Record):
    """`reports/start.json`: where `train.init_from` takes weights from; `scratch`: nowhere."""

    init_from: str


class Members(Record):
    """`reports/ensemble.json`: the files of `evaluate.ensemble`, by model: name to SHA-256."""

    members: dict[str, dict[str, str]]


class Gpt2Weights(FirstWeights):
    source: str
    mirror: str | None
    files: dict[str, str] = Field(default_factory=dict)  # name to SHA-256


class LocalWeights(FirstWeights):
    files: dict[str, str]  # name to SHA-256


class LengthClass(Record):
    """How many documents are from so long to below so long."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    start: int = Field(alias="from")
    below: int
    documents: int


class Excerpt(Record):
    source: str
    title: str
    text: str


class CorpusStatistics(Record):
    characters_per_document: float
    characters_a_document: tuple[LengthClass, ...]
    excerpts: tuple[Excerpt, ...]


class CorpusReport(SealedRecord):
    """`reports/corpus.json`.

    Attributes:
        skipped: documents that are left out, by reason.
        chosen, catalogue_sha256: of Project Gutenberg's books.
    """

    corpus: str
    sha256: str
    documents: int
    characters: int
    bytes: int
    skipped: dict[str, int] = Field(default_factory=dict)
    source: str
    chosen: int | None = Field(None, exclude_if=_is_none)
    catalogue_sha256: str | None = Field(None, exclude_if=_is_none)
    statistics: CorpusStatistics | None = None


class SplitCounts(Record):
    """How large a split is."""

    tokens: int
    documents: int
    characters: int
    bytes: int


class TokenCount(Record):
    token: int
    text: str
    count: int


class SplitStatistics(Record):
    """Of all splits together, without the ends of text between documents."""

    tokens_per_document: float
    characters_per_token: float
    bytes_per_token: float
    distinct_tokens: int
    most_common: tuple[TokenCount, ...]
    tokens_a_document: tuple[LengthClass, ...]


class SharedText(Record):
    """How much of a split's text stands in the training text too.

    Attributes:
        tokens: so many lie in runs of `run_length` tokens or more that training holds.
        share: theirs of the split's tokens.
        near_copies: documents that are nearly the same as one of training; of one document 0.
        near_copies_share: theirs of the split's tokens.
    """

    run_length: int = Field(ge=1)
    tokens: int = Field(ge=0)
    share: float = Field(ge=0, le=1)
    near_copies: int = Field(0, ge=0)
    near_copies_share: float = Field(0.0, ge=0, le=1)


HeldOut = Literal["val", "test"]  # the splits that no training sees


class SplitReport(SealedRecord):
    """`reports/split.json`; older ones know no `shared` text."""

    corpus: str
    corpus_sha256: str
    train: SplitCounts
    val: SplitCounts
    test: SplitCounts | None = Field(None, exclude_if=_is_none)
    shared: dict[HeldOut, SharedText] | None = Field(None, exclude_if=_is_none)
    statistics: SplitStatistics | None = None

    @property
    def splits(self) -> dict[str, SplitCounts]:
        """The splits that there are, by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: counts for name, counts in named.items() if counts is not None}


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


class AverageEvaluation(Record):
    step: int
    val_loss: float


class StepLosses(Record):
    """The losses of the last steps, each of its own batch, with dropout, before its update."""

    steps: int
    mean: float


class Training(Record):
    """`reports/train.json`.

    Attributes:
        overfit: the rise of validation loss since its best, in nats per token.
        step_losses: over the last epoch, or as many steps as loss spikes are judged by.
        ema: of the averaged weights, where `train.ema_decay` is set.
    """

    parameters: int
    steps: int
    tokens_seen: int
    best: BestEvaluation
    last: LastEvaluation
    overfit: float
    step_losses: StepLosses | None = Field(None, exclude_if=_is_none)
    ema: AverageEvaluation | None = Field(None, exclude_if=_is_none)


class TrainRun(Record):
    """`reports/train_run.json`: the key that finds the run in every store, and MLflow's id."""

    run: str = ""
    run_id: str | None = None
    experiment: str = ""
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
    """A model's losses over each split; `test` where the corpus has one."""

    train: Losses
    val: Losses
    test: Losses | None = Field(None, exclude_if=_is_none)

    @property
    def by_split(self) -> dict[str, Losses]:
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: losses for name, losses in named.items() if losses is not None}


class EnsembleLosses(SplitLosses):
    """Of the mean of several models' probabilities.

    Attributes:
        members: their names, as `evaluate.ensemble` has them.
        parameters: of all together.
    """

    members: tuple[str, ...]
    parameters: int = Field(ge=1)


class PromptCompletion(Record):
    """A model's greedy continuation of a prompt."""

    prompt: str
    completion: str


class EvaluationReport(SealedRecord):
    """`reports/evaluate.json`: `train`, `val` and `test` are of the last weights."""

    corpus_sha256: str
    context_length: int
    train: Losses
    val: Losses
    test: Losses | None = Field(None, exclude_if=_is_none)
    best: SplitLosses
    untrained: SplitLosses
    ema: SplitLosses | None = Field(None, exclude_if=_is_none)
    ensemble: EnsembleLosses | None = Field(None, exclude_if=_is_none)
    completions: dict[Literal["best", "last", "ema"], tuple[PromptCompletion, ...]] = Field(
        default_factory=dict
    )

    @property
    def last(self) -> SplitLosses:
        return SplitLosses(train=self.train, val=self.val, test=self.test)

    @property
    def trained(self) -> dict[str, SplitLosses]:
        """The losses of the training's weights, by their name."""
        named = {"best": self.best, "last": self.last, "ema": self.ema}
        return {name: losses for name, losses in named.items() if losses is not None}

    @property
    def measured(self) -> dict[str, SplitLosses]:
        """All that was measured, by name, in the order of the comparison's rows."""
        ensemble = {"ensemble": self.ensemble} if self.ensemble else {}
        return {"untrained": self.untrained, **self.trained, **ensemble}


class PerplexityReport(Record):
    """`reports/perplexity.json`: what runs are compared by beside the losses in `train.json`."""

    val_perplexity: float
    val_bits_per_byte: float
    best_val_perplexity: float
    best_val_bits_per_byte: float
    ema_val_perplexity: float | None = Field(None, exclude_if=_is_none)
    ema_val_bits_per_byte: float | None = Field(None, exclude_if=_is_none)
    ensemble_val_perplexity: float | None = Field(None, exclude_if=_is_none)
    ensemble_val_bits_per_byte: float | None = Field(None, exclude_if=_is_none)


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
    host: str | None = Field(None, exclude_if=_is_none)  # that the weights came from
    files: dict[str, WeightsFile] = Field(default_factory=dict)


class BaselineReport(SealedRecord):
    """`reports/baselines/SIZE.json`; the losses are there when `status` is `measured`."""

    model: str
    status: Literal["measured", "unavailable"]
    reason: str | None = None
    parameters: int | None = None
    precision: str | None = None
    host: str | None = Field(None, exclude_if=_is_none)  # that the weights came from
    context_length: int | None = None
    corpus_sha256: str | None = None
    train: Losses | None = None
    val: Losses | None = None
    test: Losses | None = Field(None, exclude_if=_is_none)
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

# Files hold six digits: enough to compare, and the same on machines that round alike.
Rounded = Annotated[float, PlainSerializer(lambda value: round(value, 6), return_type=float)]
Number = int | Rounded | None


class SampledText(Record):
    """A completion, the settings that drew it, and what it copied from the training text.

    Attributes:
        tokens: how many, without end-of-text.
        mean_log_prob: nats per token under the model at temperature 1.
        copied: the share of its tokens in copied passages; None where it has no tokens.
        copies: the copied passages, [start, stop) in characters of the completion.
        longest_copy: the longest of them, and its first position among the training tokens.
    """

    prompt: str
    temperature: float
    top_k: int | None
    seed: int
    completion: str
    top_p: float | None
    min_p: float | None
    tokens: int
    finish_reason: str
    mean_log_prob: Rounded
    copied: Rounded | None
    copies: tuple[tuple[int, int], ...]
    longest_copy: str
    longest_copy_tokens: int
    longest_copy_position: int | None


class SampleMetrics(Record):
    """Numbers by the names of `pipeline.sampling.metrics.METRICS`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number] = Field(init=False)

    @property
    def metrics(self) -> dict[str, Number]:
        return self.__pydantic_extra__


class SettingMetrics(SampleMetrics):
    """The metrics of one setting's samples over all prompts."""

    temperature: float
    top_k: int | None


class ChosenMetrics(SettingMetrics):
    """The same for the setting of `params.yaml`."""

    top_p: float | None
    min_p: float | None
    seed: int


class NextToken(Record):
    """The next token's distribution under one setting: the likeliest tokens, and all others.

    Attributes:
        filter: which of the two settings it shows the effect of.
    """

    filter: Literal["temperature", "top_k"]
    temperature: float
    top_k: int | None
    tokens: tuple[str, ...]
    probabilities: tuple[Rounded, ...]
    others: Rounded


class FullSampleReport(SealedRecord):
    """`reports/samples.json`."""

    prompts: tuple[str, ...]
    chosen: ChosenMetrics
    grid: tuple[SettingMetrics, ...]
    samples: tuple[SampledText, ...]
    next_token: tuple[NextToken, ...]


class SampleReport(SealedRecord):
    """`reports/sampling_grid.json`: what the chosen temperature and top-k do not change."""

    grid: tuple[SettingMetrics, ...] = ()
    samples: tuple[SampledText, ...] = ()


class Diversity(SampleMetrics):
    """`reports/diversity.json`: the chosen setting's metrics by which runs are compared."""
