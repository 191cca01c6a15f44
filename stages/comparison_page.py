"""What the compare stage puts into the report: the other stages' numbers, in words and tables."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.records import Record, read_record
from pipeline.params import Params, flatten

if TYPE_CHECKING:
    from pandas import DataFrame

    from pipeline.evaluation.token_comparison import TokenView
    from pipeline.reporting.html import HeatMap, Page

COLUMNS = ["step", "epoch", "tokens_seen", "train_loss", "val_loss", "learning_rate"]
AXES = {"temperature", "top_k"}
SHOWN = {"seed": True, "prepare": True, "split": True, "model": True, "train": True}
SETTINGS = AXES | {"top_p", "min_p", "seed"}
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


class CorpusReport(Record):
    """`reports/corpus.json`."""

    corpus: str
    sha256: str
    documents: int
    characters: int
    source: str


class SplitSide(Record):
    tokens: int


class SplitReport(Record):
    """`reports/split.json`."""

    train: SplitSide
    val: SplitSide


class Sample(Record):
    prompt: str
    completion: str
    temperature: float
    top_k: int | None = None
    seed: int | None = None


class SampleReport(Record):
    """What the page shows of `reports/sampling_grid.json`."""

    samples: tuple[Sample, ...] = ()
    grid: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Context:
    """What the page tells beside the comparison itself."""

    params: Params
    corpus: CorpusReport
    split: SplitReport
    samples: SampleReport

    @classmethod
    def read(cls, params: Params, corpus: Path, split: Path, samples: Path | None) -> Context:
        """Read the JSON files.

        Raises:
            UserError: one is missing or lacks a key.
        """
        return cls(
            params,
            read_record(corpus, CorpusReport),
            read_record(split, SplitReport),
            read_record(samples, SampleReport) if samples else SampleReport(),
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
    from pipeline.evaluation.verdict import verdict
    from pipeline.reporting.comparison_figures import size_figure, training_figure
    from pipeline.reporting.html import Page

    rows, train = rows_of(comparison), context.params.train
    return Page(
        subject=context.corpus.corpus,
        verdict=verdict(comparison, train.epochs, train.init_from),
        rows=list(rows.values()),
        notes=notes(comparison),
        figures={
            "Loss while training": training_figure(history, rows),
            "Loss against size": size_figure(rows),
        },
        models=view.models if view else (),
        windows=view.windows if view else (),
        completions=completions_by_prompt(comparison),
        samples=samples_by_prompt(context.samples),
        heat_maps=heat_maps(context.samples.grid),
        facts=facts(comparison, context),
        params=_settings(context.params),
    )


def markdown(page: Page) -> str:
    """The verdict, the table and the notes for a reader of Markdown."""
    from pipeline.reporting.tables import to_markdown

    return "\n".join(
        [
            f"# {page.subject}: the comparison\n",
            f"{page.verdict}\n",
            to_markdown(page.rows),
            *(f"{note}\n" for note in page.notes),
            "![Validation loss against parameters](comparison.png)\n",
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
    return sentences


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


def samples_by_prompt(report: SampleReport) -> dict[str, list[tuple[str, str]]]:
    """Prompt to its samples, each with its settings in words."""
    samples: dict[str, list[tuple[str, str]]] = {}
    for sample in report.samples:
        words = f"temperature {sample.temperature:g}"
        if sample.top_k is not None:
            words += f", top-k\u00a0{sample.top_k}"
        samples.setdefault(sample.prompt, []).append((words, sample.completion))
    return samples


def heat_maps(grid: Sequence[Mapping[str, Any]]) -> list[HeatMap]:
    """One map over temperature and top-k for each number that the cells of the grid hold."""
    from pipeline.reporting.html import HeatMap

    cells = {(cell["temperature"], cell["top_k"]): cell for cell in grid if cell.keys() >= AXES}
    temperatures = list(dict.fromkeys(temperature for temperature, _ in cells))
    top_ks = list(dict.fromkeys(top_k for _, top_k in cells))
    return [
        HeatMap(
            title=name.replace("_", " "),
            across="top-k",
            down="temperature",
            columns=["all" if top_k is None else str(top_k) for top_k in top_ks],
            lines=[f"{temperature:g}" for temperature in temperatures],
            cells=[[cells.get((t, k), {}).get(name) for k in top_ks] for t in temperatures],
        )
        for name in measures(cells.values())
    ]


def measures(cells: Collection[Mapping[str, Any]]) -> list[str]:
    """The keys under which the cells hold numbers, settings aside."""
    return [
        name
        for name in dict.fromkeys(key for cell in cells for key in cell)
        if name not in SETTINGS
        and all(isinstance(cell.get(name), int | float | None) for cell in cells)
    ]


def facts(comparison: Comparison, context: Context) -> dict[str, str]:
    """How the numbers came to be, in words."""
    corpus, split, measured = context.corpus, context.split, comparison.evaluation
    model, train = context.params.model, context.params.train
    documents = f"{corpus.documents:,} document{'s' if corpus.documents != 1 else ''}"
    return {
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
            f"{train.epochs} epochs from {train.init_from}, {train.batch_size} windows a batch, "
            f"AdamW, learning rate {train.learning_rate:g}, {train.schedule}; "
            f"seed {context.params.seed}"
        ),
        "Versions": _versions(),
    }


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
