"""The content of the comparison's page: the other stages' numbers, in words and figures."""

from __future__ import annotations

import csv
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from pipeline.comparison.corpus_section import corpus_section
from pipeline.comparison.figures import size_figure, training_figure
from pipeline.comparison.intervals import SPLITS, basis, missing_reference, units
from pipeline.comparison.page import ComparisonPage
from pipeline.comparison.table import Comparison, interval_of
from pipeline.comparison.token_view import TokenView
from pipeline.comparison.verdict import comparison_verdict, listed
from pipeline.errors import UserError
from pipeline.gpt2.sizes import PUBLISHED_TEXT, SIZES
from pipeline.numbers import counted
from pipeline.params import Params, Train, flatten
from pipeline.reports import (
    HISTORY_COLUMNS,
    CorpusReport,
    HistoryRow,
    SampleReport,
    SplitReport,
    Training,
    TrainRun,
)
from pipeline.sampling.section import sampling_section
from pipeline.system.files import read_bounded
from pipeline.tokens.ngrams import NGRAM
from pipeline.tracking.tags import git_tags

SHOWN = {"seed", "prepare", "split", "model", "train"}  # what the losses come from
HISTORY_ROW = TypeAdapter(HistoryRow)
REWRITTEN = "`dvc repro -f train` rewrites it"
PROTOCOL = (
    "GPT-2's byte-pair encoding; windows without overlap from the start of each split, the last "
    "short one dropped; targets are the inputs shifted by one; the loss is the sum of nats over "
    "all target tokens, divided by their number"
)


@dataclass(frozen=True)
class PageContext:
    """What the page shows beside the comparison itself."""

    params: Params
    corpus: CorpusReport
    split: SplitReport
    samples: SampleReport
    run: TrainRun
    commit: str

    @classmethod
    def read(
        cls, params: Params, corpus: Path, split: Path, samples: Path | None, run: Path
    ) -> PageContext:
        """Read the JSON files, and ask Git for the commit.

        Raises:
            UserError: a file is missing, or lacks a key or has a wrong one.
        """
        return cls(
            params,
            CorpusReport.read(corpus),
            SplitReport.read(split),
            SampleReport.read(samples) if samples else SampleReport(),
            TrainRun.read(run),
            _commit(),
        )


def read_history(path: Path, training: Training) -> pd.DataFrame:
    """Read `reports/history.csv`, a row per evaluation.

    Args:
        training: what `reports/train.json` says of the same training.

    Raises:
        UserError: it is missing, is no such table, or is another training's.
    """
    try:
        rows = _history_rows(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {REWRITTEN}") from None
    except (ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no table of evaluations ({reason}); {REWRITTEN}") from None
    if not rows:
        raise UserError(f"{path}: holds no validation loss; {REWRITTEN}")
    counts = [[row.step for row in rows], [row.tokens_seen for row in rows]]
    if any(numbers != sorted(set(numbers)) or numbers[0] < 0 for numbers in counts):
        raise UserError(f"{path}: its steps are not in order; {REWRITTEN}")
    last, best = rows[-1], {row.step: row.val_loss for row in rows}.get(training.best.step)
    given = (last.step, last.tokens_seen, last.val_loss, best)
    wanted = (training.steps, training.tokens_seen, training.last.val_loss, training.best.val_loss)
    if given != wanted:
        raise UserError(f"{path}: not of the training that train.json sums up; {REWRITTEN}")
    return pd.DataFrame([asdict(row) for row in rows])


def _history_rows(path: Path) -> list[HistoryRow]:
    table = csv.reader(read_bounded(path).decode("utf-8").splitlines(), strict=True)
    header = next(table, [])
    if missing := [column for column in HISTORY_COLUMNS if column not in header]:
        raise UserError(f"{path}: lacks {', '.join(missing)}; {REWRITTEN}")
    rows = []
    for cells in table:
        try:
            row = HISTORY_ROW.validate_python(dict(zip(header, cells, strict=True)))
        except ValueError:  # pydantic's, whose text is of several lines
            raise ValueError(f"line {table.line_num} is none") from None
        if not math.isfinite(row.val_loss):
            raise ValueError(f"line {table.line_num} has no validation loss")
        rows.append(row)
    return rows


def make_page(
    comparison: Comparison,
    context: PageContext,
    history: pd.DataFrame,
    view: TokenView | None,
    remarks: Sequence[str] = (),
) -> ComparisonPage:
    """Choose what the page shows.

    Args:
        history: `reports/history.csv`.
        view: the validation text, where models have left their losses by token.
        remarks: see `remarks`.
    """
    trained, start = history.iloc[-1], context.params.train.init_from
    figures = {
        "Loss while training": training_figure(history, comparison.models),
        "Loss against size": size_figure(comparison.models),
    }
    corpus, split, samples = context.corpus, context.split, context.samples
    return ComparisonPage(
        subject=corpus.corpus,
        verdict=comparison_verdict(comparison, float(trained["epoch"]), start),
        rows=list(comparison.models.values()),
        notes=notes(comparison),
        figures={heading: figure for heading, figure in figures.items() if figure},
        remarks=remarks,
        models=view.models if view else (),
        windows=view.windows if view else (),
        completions=completions_by_prompt(comparison),
        sampling=sampling_section(samples),
        corpus=corpus_section(corpus, split),
        facts=facts(comparison, context, steps=int(trained["step"]), epochs=trained["epoch"]),
        params=_settings(context.params),
    )


def notes(comparison: Comparison) -> list[str]:
    """What the table's numbers stand on."""
    measured = comparison.evaluation
    named = [("validation", measured.val), ("test", measured.test), ("training", measured.train)]
    splits = [(name, losses) for name, losses in named if losses is not None]
    tokens = listed([f"{losses.tokens:,} {name}" for name, losses in splits])
    windows = listed([f"{losses.windows:,}" for _, losses in splits])
    sentences = [
        f"Losses in nats per token, over {tokens} tokens, in {windows} windows of "
        f"{measured.context_length:,}.",
        *how_sure(comparison),
        *what_was_chosen(comparison),
    ]
    if any(model.published_val_loss is not None for model in comparison.models.values()):
        sentences.append(published_note())
    return sentences + hosts(comparison) + unavailable(comparison)


def how_sure(comparison: Comparison) -> list[str]:
    """What the intervals rest on, or why there are none, and what differences are from."""
    rows = [row for row in comparison.models.values() if row.uncertainty]
    sentences = []
    for split, name in SPLITS.items():
        found = [row.uncertainty[split] for row in rows if split in row.uncertainty]
        known = [uncertainty for uncertainty in found if uncertainty.interval]
        if known:
            sentences.append(
                f"In brackets beside {name} losses: {known[0].method}, over {units(known[0])}."
            )
        elif found:
            sentences.append(f"{name.capitalize()} losses have no interval: {basis(found[0])}.")
    if comparison.copied is not None:
        sentences.append(
            f"Without copied text: {comparison.copied:.1%} of the {SPLITS[comparison.judged]} "
            f"tokens stand in training too, in runs of {NGRAM} or more, and are left out."
        )
    if missing := missing_reference(comparison):
        return [*sentences, f"No differences are shown: {missing}."]
    if any(row.difference for row in rows):
        name = comparison.models[comparison.reference].name
        sentence = f"Differences are from {name}, over the same {SPLITS[comparison.judged]} tokens"
        if any(interval_of(row.difference) for row in rows):
            sentence += "; where the interval holds 0, this text can show none"
        sentences.append(f"{sentence}.")
    return sentences


def what_was_chosen(comparison: Comparison) -> list[str]:
    """Which split chose the best weights, and whether they are judged on it."""
    if comparison.judged == "test":
        return ["Weights were chosen on validation; the test chose nothing."]
    chosen = [row.name for row in comparison.models.values() if row.chosen_here]
    return [
        f"The weights of {name} were chosen on these very validation windows, which flatters "
        "them; split.test_fraction keeps a test aside that chooses nothing."
        for name in chosen
    ]


def published_note() -> str:
    """Where the published losses come from."""
    known = [(size, size.published) for size in SIZES.values() if size.published]
    names = [known[0][0].title, *(size.short_title for size, _ in known[1:])]
    losses = [f"{loss.train:.4f} for {name}" for name, (_, loss) in zip(names, known, strict=True)]
    return (
        "Published are the losses of chapter 5 of Build a Large Language Model (From Scratch) and "
        f"its notebook, for this text in windows of {PUBLISHED_TEXT.context_length} tokens; the "
        f"training losses there are {listed(losses)}."
    )


def hosts(comparison: Comparison) -> list[str]:
    """A sentence for each host that weights came from."""
    models: dict[str, list[str]] = {}
    for model in comparison.models.values():
        if model.host is not None:
            models.setdefault(model.host, []).append(model.name)
    return [f"The weights of {listed(names)} came from {host}." for host, names in models.items()]


def unavailable(comparison: Comparison) -> list[str]:
    """A sentence for each reason why models could not be measured."""
    models: dict[str, list[str]] = {}
    for model in comparison.models.values():
        if model.reason is not None:
            models.setdefault(model.reason, []).append(model.name)
    return [
        f"{', '.join(names)} could not be measured: {reason}. The next dvc repro tries again."
        for reason, names in models.items()
    ]


def completions_by_prompt(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Prompt to the name of each model that completed it to its text, in the rows' order."""
    models = comparison.models.values()
    prompts = dict.fromkeys(prompt for model in models for prompt in model.completions)
    return {
        prompt: {m.name: m.completions[prompt] for m in models if prompt in m.completions}
        for prompt in prompts
    }


def facts(
    comparison: Comparison, context: PageContext, *, steps: int, epochs: float
) -> dict[str, str]:
    """How the numbers came to be, in words."""
    corpus, split, measured = context.corpus, context.split, comparison.evaluation
    model, train = context.params.model, context.params.train
    made = {
        "Corpus": (
            f"{corpus.corpus}: {counted(corpus.documents, 'document')}, "
            f"{counted(corpus.characters, 'character')}"
        ),
        "Source": corpus.source,
        "SHA-256 of the text": corpus.sha256,
        "Split": (
            f"{split.train.tokens:,} training and {counted(split.val.tokens, 'validation token')}; "
            f"windows of {measured.context_length:,}"
        ),
        "Measure": PROTOCOL,
        "Model": (
            f"{counted(comparison.training.parameters, 'parameter')}: "
            f"{counted(model.n_layer, 'layer')} of {counted(model.n_head, 'head')}, "
            f"{model.n_embd} wide; {model.init} initialisation"
        ),
        "Training": (
            f"{counted(steps, 'step')} ({epochs:.3g} epoch{'' if epochs == 1 else 's'}) from "
            f"{train.init_from}, {_windows_per_step(train)} per step, "
            f"{train.optimizer}, learning rate {train.learning_rate:g}, {train.schedule}; "
            f"seed {context.params.seed}"
        ),
        "Ensemble": ", ".join(measured.ensemble.members) if measured.ensemble else "",
        "MLflow run": f"{context.run.name}, {context.run.run}" if context.run.run else "",
        "Commit": context.commit,
        "Versions": _versions(),
    }
    return {name: fact for name, fact in made.items() if fact}


def _windows_per_step(train: Train) -> str:
    """`train.batch_size: auto` was found by the training, and stands in its run."""
    if train.batch_size == "auto":
        return "as many windows as fit into the GPU"
    return counted(train.batch_size * train.gradient_accumulation, "window")


def _commit() -> str:
    """The commit that is checked out, and whether the work differs from it; empty without Git."""
    tags = git_tags()
    changed = ", with changes that are not in it" * (tags.get("lossbook.git.dirty") == "true")
    return tags.get("mlflow.source.git.commit", "") + changed


def _settings(params: Params) -> dict[str, Any]:
    """The settings that this page's numbers come from, as YAML writes them."""
    words = {None: "null", True: "true", False: "false"}
    shown = params.model_dump(include=SHOWN)
    return {
        key: words.get(value, value) if isinstance(value, bool | None) else value
        for key, value in flatten(shown).items()
        if value != ()  # an empty list chooses nothing
    }


def _versions() -> str:
    names = {"lossbook": "Lossbook", "torch": "PyTorch", "tiktoken": "tiktoken"}
    found = [f"Python {platform.python_version()}"]
    for package, name in names.items():
        try:
            found.append(f"{name} {version(package)}")
        except PackageNotFoundError:  # run from a bare checkout
            continue
    return ", ".join(found)
