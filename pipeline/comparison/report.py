"""What the compare stage puts into the report: the other stages' numbers, in words and tables."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.comparison.table import Comparison
from pipeline.errors import UserError
from pipeline.params import Params, flatten
from pipeline.reports import CorpusReport, SampleReport, SplitReport, TrainRun
from pipeline.tracking.tags import git_tags

if TYPE_CHECKING:
    from pandas import DataFrame

    from pipeline.comparison.page import Page
    from pipeline.comparison.tokens import TokenView

COLUMNS = ["step", "epoch", "tokens_seen", "train_loss", "val_loss", "learning_rate"]
SHOWN = {"seed": True, "prepare": True, "split": True, "model": True, "train": True}
PROTOCOL = (
    "GPT-2's byte-pair encoding; windows without overlap from the start of each split, the last "
    "short one dropped; targets are the inputs shifted by one; the loss is the sum of nats over "
    "all target tokens, divided by their number"
)
PUBLISHED = (
    "Published are the losses of chapter 5 of Build a Large Language Model (From Scratch) and its "
    "notebook, for this text in windows of 256 tokens; the training losses there are 3.7547 for "
    "GPT-2 small and 3.3046 for XL."
)


@dataclass(frozen=True)
class Context:
    """What the page tells beside the comparison itself."""

    params: Params
    corpus: CorpusReport
    split: SplitReport
    samples: SampleReport
    run: TrainRun
    commit: str

    @classmethod
    def read(
        cls, params: Params, corpus: Path, split: Path, samples: Path | None, run: Path
    ) -> Context:
        """Read the JSON files, and ask Git for the commit.

        Raises:
            UserError: a file is missing or lacks a key.
        """
        return cls(
            params,
            CorpusReport.read(corpus),
            SplitReport.read(split),
            SampleReport.read(samples) if samples else SampleReport(),
            TrainRun.read(run),
            _commit(),
        )


def read_history(path: Path) -> DataFrame:
    """Read `reports/history.csv`.

    Raises:
        UserError: it is missing, lacks a column, or holds no validation loss.
    """
    import pandas as pd

    try:
        history = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: {reason}; `dvc repro -f train` rewrites it") from None
    missing = [column for column in COLUMNS if column not in history]
    if missing or history["val_loss"].dropna().empty:
        what = f"lacks {', '.join(missing)}" if missing else "holds no validation loss"
        raise UserError(f"{path}: {what}; `dvc repro -f train` rewrites it")
    return history


def rows_of(comparison: Comparison) -> dict[str, dict[str, Any]]:
    return {key: asdict(row) for key, row in comparison.rows.items()}


def metrics(comparison: Comparison) -> dict[str, float]:
    """Every measured number by its name in MLflow, as `gpt2_124M/val_loss`."""
    return {
        f"{key}/{name}": value
        for key, numbers in comparison.as_numbers().items()
        for name, value in numbers.items()
    }


def make_page(
    comparison: Comparison,
    context: Context,
    history: DataFrame,
    view: TokenView | None,
) -> Page:
    from pipeline.comparison.corpus_section import corpus_section
    from pipeline.comparison.figures import size_figure, training_figure
    from pipeline.comparison.page import Page
    from pipeline.comparison.verdict import verdict
    from pipeline.sampling.section import sampling_section

    rows, trained = rows_of(comparison), history.iloc[-1]
    figures = {
        "Loss while training": training_figure(history, rows),
        "Loss against size": size_figure(rows),
    }
    corpus, split, samples = context.corpus, context.split, context.samples
    return Page(
        subject=corpus.corpus,
        verdict=verdict(comparison, float(trained["epoch"]), context.params.train.init_from),
        rows=list(rows.values()),
        notes=notes(comparison),
        figures={heading: figure for heading, figure in figures.items() if figure},
        models=view.models if view else (),
        windows=view.windows if view else (),
        completions=completions_by_prompt(comparison),
        sampling=sampling_section(samples),
        corpus=corpus_section(corpus.model_dump(), split.model_dump(exclude_none=True)),
        facts=facts(comparison, context, steps=int(trained["step"]), epochs=trained["epoch"]),
        params=_settings(context.params),
    )


def markdown(page: Page) -> str:
    """The verdict, the table and the notes for a reader of Markdown."""
    from pipeline.comparison.columns import to_markdown

    return "\n".join(
        [
            f"# {page.subject}: the comparison\n",
            f"{page.verdict}\n",
            to_markdown(page.rows),
            *(f"{note}\n" for note in page.notes),
        ]
    )


def notes(comparison: Comparison) -> list[str]:
    """What the table's numbers stand on."""
    measured = comparison.evaluation
    sentences = [
        f"Losses in nats a token, over {measured.val.tokens:,} validation and "
        f"{measured.train.tokens:,} training tokens, in {measured.val.windows:,} and "
        f"{measured.train.windows:,} windows of {measured.context_length:,}."
    ]
    if any(row.published_val_loss is not None for row in comparison.rows.values()):
        sentences.append(PUBLISHED)
    return sentences + unavailable(comparison)


def unavailable(comparison: Comparison) -> list[str]:
    """A sentence for each reason why models could not be measured."""
    models: dict[str, list[str]] = {}
    for row in comparison.rows.values():
        if row.val_loss is None:
            models.setdefault(row.status.partition(": ")[2], []).append(row.model)
    return [
        f"{', '.join(names)} could not be measured: {reason}. The next dvc repro tries again."
        for reason, names in models.items()
    ]


def completions_by_prompt(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Prompt to the name of each model that completed it to its text, in the rows' order."""
    prompts = dict.fromkeys(p for texts in comparison.completions.values() for p in texts)
    return {
        prompt: {
            row.model: comparison.completions[key][prompt]
            for key, row in comparison.rows.items()
            if prompt in comparison.completions.get(key, {})
        }
        for prompt in prompts
    }


def facts(comparison: Comparison, context: Context, *, steps: int, epochs: float) -> dict[str, str]:
    """How the numbers came to be, in words."""
    corpus, split, measured = context.corpus, context.split, comparison.evaluation
    model, train = context.params.model, context.params.train
    documents = f"{corpus.documents:,} document{'s' if corpus.documents != 1 else ''}"
    made = {
        "Corpus": f"{corpus.corpus}: {documents}, {corpus.characters:,} characters",
        "Source": corpus.source,
        "SHA-256 of the text": corpus.sha256,
        "Split": (
            f"{split.train.tokens:,} training and {split.val.tokens:,} validation tokens; "
            f"windows of {measured.context_length:,}"
        ),
        "Measure": PROTOCOL,
        "Model": (
            f"{comparison.training.parameters:,} parameters: {model.n_layer} layers of "
            f"{model.n_head} heads, {model.n_embd} wide; {model.init} initialisation"
        ),
        "Training": (
            f"{steps:,} steps ({epochs:.3g} epochs) from {train.init_from}, "
            f"{train.batch_size * train.gradient_accumulation} windows a step, AdamW, "
            f"learning rate {train.learning_rate:g}, {train.schedule}; seed {context.params.seed}"
        ),
        "MLflow run": f"{context.run.name}, {context.run.run}" if context.run.run else "",
        "Commit": context.commit,
        "Versions": _versions(),
    }
    return {name: fact for name, fact in made.items() if fact}


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
