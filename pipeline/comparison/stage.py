"""The stage compare: every model's losses side by side, as tables, figures and a page."""

from __future__ import annotations

from pathlib import Path

from pipeline.comparison.columns import comparison_report, flat_cells, metrics, to_csv
from pipeline.comparison.figures import draw_sizes, judged_text
from pipeline.comparison.intervals import with_intervals
from pipeline.comparison.kept import read_kept
from pipeline.comparison.page import ComparisonPage, render_html, render_markdown
from pipeline.comparison.remarks import RunNumbers, remarks
from pipeline.comparison.report import PageContext, make_page, read_history
from pipeline.comparison.table import Comparison, read_comparison, require_same_corpus
from pipeline.comparison.token_view import token_view
from pipeline.params import load_params
from pipeline.reports import HistoryRow
from pipeline.system.files import write_text
from pipeline.tokens.splits import Splits
from pipeline.tokens.tokenizer import token_bytes
from pipeline.tracking.open_run import Run
from pipeline.tracking.run import start_run


def compare(
    params: Path,
    corpus: Path,
    split: Path,
    tokens: Path,
    train: Path,
    history: Path,
    evaluate: Path,
    baselines: Path,
    token_losses: Path,
    samples: Path | None,
    parent: Path,
    reports: Path,
    journal: Path,
) -> str:
    """Compare this repository's model with GPT-2's sizes; write `comparison.*` into `reports`.

    Args:
        corpus, split, train, history, evaluate, samples: the reports of the stages so named.
        tokens: the folder of `val/` and perhaps `test/`.
        baselines, token_losses: the folders of a JSON file, or a folder, per model.
        parent: `reports/train_run.json`.
        journal: the folder of the run's journal to write.

    Returns:
        The verdict.

    Raises:
        UserError: an input is missing, damaged, or measured on something else.
    """
    settings = load_params(params)
    context = PageContext.read(settings, corpus, split, samples, parent)
    start = settings.train.init_from
    comparison = read_comparison(
        evaluate,
        train,
        baselines,
        settings.gpt2.sizes,
        start=start,
        reference=settings.compare.reference,
    )
    require_same_corpus(
        {
            corpus: context.corpus.sha256,
            split: context.split.corpus_sha256,
            evaluate: comparison.evaluation.corpus_sha256,
        }
    )
    splits = Splits.open(tokens, comparison.evaluation.context_length)
    kept = read_kept(comparison, token_losses, splits)
    comparison = with_intervals(comparison, kept)
    view = token_view(comparison, kept, token_bytes)
    evaluations = read_history(history, comparison.training)
    rows = [HistoryRow(*row) for row in evaluations.itertuples(index=False)]
    numbers = RunNumbers.of(settings, comparison, rows, splits, context.split)
    page = make_page(comparison, context, evaluations, view, remarks(numbers))
    with start_run(
        "compare",
        experiment=settings.tracking.experiment,
        description=render_markdown(page),
        params={
            "gpt2.sizes": settings.gpt2.sizes,
            "compare.reference": comparison.reference,
        },
        parent=parent,
        journal=journal,
    ) as run:
        write(reports, comparison, page)
        log(run, reports, comparison)
    return page.verdict


def write(reports: Path, comparison: Comparison, page: ComparisonPage) -> None:
    """Write `comparison.*`; the JSON last, as the mark that the rest is there."""
    html = render_html(page)
    write_text(reports / "comparison.csv", to_csv(page.rows))
    text = judged_text(comparison.models).capitalize()
    figure = f"![{text} loss against parameters](comparison.png)"  # which a run's text has not
    write_text(reports / "comparison.md", f"{render_markdown(page)}\n{figure}\n")
    draw_sizes(comparison.models, reports / "comparison.png")
    write_text(reports / "comparison.html", html)
    comparison_report(comparison, page.verdict).write(reports / "comparison.json")


def log(run: Run, reports: Path, comparison: Comparison) -> None:
    """Log numbers, table, completions and files."""
    run.log_metrics(
        {
            f"{key}/{name}": value
            for key, numbers in metrics(comparison).items()
            for name, value in numbers.items()
        }
    )
    run.log_table([flat_cells(model) for model in comparison.models.values()], "comparison.json")
    run.log_samples(
        [
            {"prompt": prompt, "weights": key, "temperature": 0.0, "completion": completion}
            for key, model in comparison.models.items()
            for prompt, completion in model.completions.items()
        ]
    )
    for suffix in ("html", "md", "csv", "png"):
        run.log_artifact(reports / f"comparison.{suffix}")
