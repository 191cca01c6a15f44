"""The models that are compared on one text: the untrained, the trained, ensembles, GPT-2's sizes.

Only like is compared with like: numbers measured on another corpus, context length, windows or
tokens are refused. A GPT-2 size that could not be had keeps its row, with the reason; every number
was measured here, but for the published ones, which have a column of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.comparison.uncertainty import Interval, Uncertainty
from pipeline.errors import UserError
from pipeline.gpt2.sizes import PUBLISHED_TEXT, SIZES, PublishedText, Size
from pipeline.params import OURS
from pipeline.reports import (
    BaselineReport,
    EnsembleLosses,
    EvaluationReport,
    Losses,
    PromptCompletion,
    SplitLosses,
    Training,
)
from pipeline.system.text import quoted

UNTRAINED = "untrained"  # the name of random weights; those of a fine-tuning are not

Judged = Literal["val", "test"]


@dataclass(frozen=True)
class Estimate:
    """A loss, or a difference of two over the same tokens, and how sure it is.

    Attributes:
        nats: per token.
        uncertainty: of a difference paired, unit of text by unit.
    """

    nats: float
    uncertainty: Uncertainty

    @property
    def interval(self) -> Interval | None:
        return self.uncertainty.interval


@dataclass(frozen=True)
class ComparedModel:
    """One model of the comparison.

    Attributes:
        name: as people read it.
        parameters, train, val: None where it was not measured.
        test: None where there is no test split, too.
        uncertainty: of the losses `val` and `test`; `intervals` adds it, and the next four.
        difference: from the comparison's reference; None where it cannot be stated.
        beside_best: from our weights of the lowest validation loss.
        without_copies: its loss over the tokens that do not stand in training; None where few do,
            or nobody looked.
        interval_note: what the intervals rest on, or why there are none.
        published_val_loss: nats per token, where somebody else measured the size on this text.
        reason: why it was not measured; None where it was.
        chosen_here: its weights were chosen by the losses that the table judges it by.
        size: of GPT-2; None for this repository's model.
        host: that its weights came from, where they were fetched.
        completions: prompt to greedy continuation.
    """

    name: str
    parameters: int | None = None
    train: Losses | None = None
    val: Losses | None = None
    test: Losses | None = None
    uncertainty: Mapping[Judged, Uncertainty] = field(default_factory=dict)
    difference: Estimate | None = None
    beside_best: Estimate | None = None
    without_copies: Estimate | None = None
    interval_note: str | None = None
    published_val_loss: float | None = None
    reason: str | None = None
    chosen_here: bool = False
    size: Size | None = None
    host: str | None = None
    completions: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """`measured`, or `unavailable: REASON`."""
        return "measured" if self.reason is None else f"unavailable: {self.reason}"

    @property
    def judged(self) -> Losses | None:
        """The losses that it is compared by: the test's where there is one."""
        return self.test or self.val

    @property
    def judged_interval(self) -> Interval | None:
        return interval_of(self.uncertainty.get("test" if self.test else "val"))


@dataclass(frozen=True)
class Comparison:
    """The models in the order of their rows, by key.

    The keys are those of `params.OURS`, as far as they were measured, and `gpt2_SIZE`.

    Attributes:
        evaluation: what every model was measured on.
        training: this repository's model: its size and best point.
        reference: the key of the row that differences are from; it may not be there.
        copied: the share of the judged tokens that stand in training, where it is large.
    """

    models: dict[str, ComparedModel]
    evaluation: EvaluationReport
    training: Training
    reference: str = "scratch_best"
    copied: float | None = None

    @property
    def judged(self) -> Judged:
        """The split that models are compared on, which chose none of them if it is the test."""
        return "val" if self.evaluation.test is None else "test"

    @property
    def best(self) -> str:
        """The key of our weights of the lowest validation loss, over the whole split."""
        ours = self.evaluation.trained
        return f"scratch_{min(ours, key=lambda version: ours[version].val.loss)}"

    @property
    def sizes(self) -> dict[str, Size]:
        """The sizes of GPT-2 among the models, by key."""
        return {key: model.size for key, model in self.models.items() if model.size is not None}


def interval_of(number: Uncertainty | Estimate | None) -> Interval | None:
    return number.interval if number else None


def read_comparison(
    evaluation: Path,
    training: Path,
    baselines: Path,
    sizes: Sequence[str],
    *,
    start: str = "scratch",
    reference: str | None = None,
) -> Comparison:
    """Read the losses of this repository's model and of the GPT-2 `sizes`.

    Args:
        evaluation: `reports/evaluate.json`.
        training: `reports/train.json`.
        baselines: the folder of `SIZE.json` files; those of other sizes are not read.
        sizes: as `gpt2.sizes` names them; the rows come in order of size.
        start: what training started from, for the names of the trained rows.
        reference: see `Comparison`; None: our best row.

    Raises:
        UserError: a file is missing or damaged, or a size was measured on something else.
    """
    ours = EvaluationReport.read(evaluation)
    trained = Training.read(training)
    models = _our_models(ours, trained.parameters, start)
    for size in (size for size in SIZES.values() if size.name in sizes):
        path = baselines / f"{size.name}.json"
        baseline = _read_baseline(path)
        if baseline.status == "measured":
            _require_same_text(evaluation, ours, path, baseline)
        models[f"gpt2_{size.name}"] = _gpt2_model(size, baseline, ours)
    comparison = Comparison(models, ours, trained)
    return replace(comparison, reference=reference or comparison.best)


def _read_baseline(path: Path) -> BaselineReport:
    if path.exists():
        return BaselineReport.read(path)
    reason = f"`dvc repro baseline@{path.stem}` measures it"
    return BaselineReport(model=path.stem, status="unavailable", reason=reason)


def _our_models(ours: EvaluationReport, parameters: int, start: str) -> dict[str, ComparedModel]:
    fresh = start == "scratch"
    name = "scratch" if fresh else f"from {start}"
    completions = {str(which): _by_prompt(found) for which, found in ours.completions.items()}
    names = {
        "untrained": UNTRAINED if fresh else "before training",
        "best": f"{name} (best)",
        "last": f"{name} (last)",
        "ema": f"{name} (averaged)",
        "ensemble": f"ensemble of {len(ours.ensemble.members) if ours.ensemble else 0}",
    }
    chosen = {"best", "ensemble"}  # of a training and of each member the best weights
    return {
        key: ComparedModel(
            names[version],
            losses.parameters if isinstance(losses, EnsembleLosses) else parameters,
            losses.train,
            losses.val,
            losses.test,
            chosen_here=version in chosen and losses.test is None,
            completions=completions.get(version, {}),
        )
        for key, version in OURS.items()
        if (losses := ours.measured.get(version))
    }


def _gpt2_model(size: Size, baseline: BaselineReport, ours: EvaluationReport) -> ComparedModel:
    reason = None
    if baseline.status == "unavailable":
        reason = " ".join((baseline.reason or "the reason was not recorded").split())
    return ComparedModel(
        name=size.label,
        parameters=baseline.parameters,
        train=baseline.train,
        val=baseline.val,
        test=baseline.test,
        published_val_loss=_published_val_loss(size, ours),
        reason=reason,
        size=size,
        host=baseline.host,
        completions=_by_prompt(baseline.completions),
    )


def _published_val_loss(size: Size, ours: EvaluationReport) -> float | None:
    """The published loss, if this is the text that it was measured on, which was split in two."""
    if ours.test is not None:
        return None
    text = PublishedText(ours.corpus_sha256, ours.context_length, ours.val.windows)
    return size.published.val if size.published and text == PUBLISHED_TEXT else None


def require_same_corpus(digests: Mapping[Path, str]) -> None:
    """
    Args:
        digests: the corpus's SHA-256, by the report that gives it.

    Raises:
        UserError: they differ.
    """
    (first, sha256), *others = digests.items()
    for path, other in others:
        if other != sha256:
            raise UserError(
                f"{first} and {path} cannot be compared: they are of two corpora (SHA-256 "
                f"{quoted(sha256, 20)} and {quoted(other, 20)}); `dvc repro` brings them in step"
            )


def _require_same_text(
    evaluation: Path, ours: EvaluationReport, path: Path, baseline: BaselineReport
) -> None:
    here, there = _measured_on(ours), _measured_on(baseline)
    for key, value in here.items():
        if there[key] != value:
            raise UserError(
                f"{evaluation} and {path} cannot be compared: {key} is {value} in the first and "
                f"{there[key]} in the second; `dvc repro` measures both on the same tokens"
            )


def _measured_on(report: EvaluationReport | BaselineReport) -> dict[str, object]:
    assert report.train is not None
    assert report.val is not None
    splits = SplitLosses(train=report.train, val=report.val, test=report.test)
    return {
        "corpus_sha256": report.corpus_sha256,
        "context_length": report.context_length,
        "splits": ", ".join(splits.by_split),
        **{
            f"{name}.{count}": getattr(losses, count)
            for name, losses in splits.by_split.items()
            for count in ("windows", "tokens")
        },
    }


def _by_prompt(completions: Sequence[PromptCompletion]) -> dict[str, str]:
    return {completion.prompt: completion.completion for completion in completions}
