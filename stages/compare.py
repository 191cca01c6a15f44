"""Put every model's losses side by side: table, figure and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.console import FILE, FOLDER, Command

if TYPE_CHECKING:
    from pipeline.comparison.page import Page
    from pipeline.comparison.table import Comparison
    from pipeline.tracking.open_run import Run

# Beside the page; a run's description has no files beside it.
FIGURE = "![Validation loss against parameters](comparison.png)"


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--corpus", type=FILE, required=True, help="What `prepare` reports.")
@click.option("--split", type=FILE, required=True, help="What `split` reports.")
@click.option("--train", type=FILE, required=True, help="What `train` reports.")
@click.option("--history", type=FILE, required=True, help="The losses of training.")
@click.option("--evaluate", type=FILE, required=True, help="What `evaluate` reports.")
@click.option("--baselines", type=FOLDER, required=True, help="SIZE.json of each GPT-2.")
@click.option("--token-losses", type=FOLDER, required=True, help="Each model's loss by token.")
@click.option("--samples", type=FILE, help="The sampling grid of `sample`, to be shown as well.")
@click.option("--parent", type=FILE, required=True, help="The train stage's run record.")
@click.option("--reports", type=FOLDER, required=True, help="Where to write comparison.*.")
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(
    params: Path,
    corpus: Path,
    split: Path,
    train: Path,
    history: Path,
    evaluate: Path,
    baselines: Path,
    token_losses: Path,
    samples: Path | None,
    parent: Path,
    reports: Path,
    journal: Path,
) -> None:
    """Put every model's losses side by side: table, figure and report."""
    from pipeline.comparison.report import Context, make_page, markdown, read_history
    from pipeline.comparison.table import compare
    from pipeline.comparison.tokens import token_view
    from pipeline.params import load_params
    from pipeline.tokens.tokenizer import token_bytes
    from pipeline.tracking.run import start_run

    settings = load_params(params)
    context = Context.read(settings, corpus, split, samples, parent)
    start = settings.train.init_from
    comparison = compare(evaluate, train, baselines, settings.gpt2.sizes, start=start)
    view = token_view(comparison, token_losses, token_bytes)
    page = make_page(comparison, context, read_history(history), view)
    with start_run(
        "compare",
        experiment=settings.tracking.experiment,
        description=markdown(page),
        params={"gpt2.sizes": settings.gpt2.sizes},
        parent=parent,
        journal=journal,
    ) as run:
        write(reports, comparison, page)
        log(run, reports, comparison)
    click.echo(page.verdict)


def write(reports: Path, comparison: Comparison, page: Page) -> None:
    """Write `comparison.*`; the JSON last, as the mark that the rest is there."""
    from pipeline.comparison.columns import to_csv
    from pipeline.comparison.figures import draw_sizes
    from pipeline.comparison.page import render
    from pipeline.comparison.report import markdown, rows_of
    from pipeline.system.files import write_json, write_text

    html = render(page)
    write_text(reports / "comparison.csv", to_csv(page.rows))
    write_text(reports / "comparison.md", f"{markdown(page)}\n{FIGURE}\n")
    draw_sizes(rows_of(comparison), reports / "comparison.png")
    write_text(reports / "comparison.html", html)
    write_json(reports / "comparison.json", comparison.as_json(page.verdict))


def log(run: Run, reports: Path, comparison: Comparison) -> None:
    """Record numbers, table, figure and report."""
    from pipeline.comparison.report import metrics, rows_of

    run.log_metrics(metrics(comparison))
    run.log_table(list(rows_of(comparison).values()), "comparison.json")
    run.log_samples(
        [
            {"prompt": prompt, "weights": key, "temperature": 0.0, "completion": completion}
            for key, completions in comparison.completions.items()
            for prompt, completion in completions.items()
        ]
    )
    for suffix in ("html", "md", "csv", "png"):
        run.log_artifact(reports / f"comparison.{suffix}")


if __name__ == "__main__":
    main()
