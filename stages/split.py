"""Split the corpus into training, validation and, if asked for, test tokens.

A corpus of many documents gets a run of its own, with what people ask of it first: how large, how
long its documents, of which tokens, what was left out and why, a page of excerpts. It belongs to
no training; every experiment on the same data shares it.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import FILE, FOLDER, Command

if TYPE_CHECKING:
    from pipeline.corpus.parquet import Corpus
    from pipeline.params import Params
    from pipeline.tracking.open_run import Run

LISTED = 10_000  # documents left out that MLflow's table shows; the corpus's folder holds all


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--corpus", type=FOLDER, required=True, help="The folder that prepare wrote.")
@click.option("--tokens", type=FOLDER, required=True, help="The folder to write.")
@click.option("--report", type=FILE, required=True, help="The JSON file to write.")
def main(params: Path, corpus: Path, tokens: Path, report: Path) -> None:
    """Split the corpus into training, validation and test tokens, memory-mapped uint16."""
    from pipeline.corpus.parquet import Corpus
    from pipeline.params import load_params
    from pipeline.split.split import split
    from pipeline.system.files import write_json
    from pipeline.system.progress import Progress

    settings = load_params(params)
    text = Corpus.open(corpus)
    with Progress(text.meta["characters"], "split", unit="character", speed=True) as bar:
        facts = split(
            corpus,
            tokens,
            settings.split.train_fraction,
            settings.split.test_fraction,
            scheduler=settings.prepare.scheduler,
            progress=bar.advance,
        )
    write_json(report, facts)
    for side in sides(facts):
        click.echo(f"{side}: {facts[side]['tokens']:,} tokens")
    if text.meta["documents"] > 1:
        publish(settings, text, facts)


def publish(params: Params, corpus: Corpus, facts: dict[str, Any]) -> None:
    """Put what is known of the corpus into a run of its own."""
    from pipeline.params import flatten
    from pipeline.tracking.run import start_run

    meta = corpus.meta
    with start_run(
        "split",
        experiment=params.tracking.experiment,
        name=meta["corpus"],
        description=(
            f"The corpus **{meta['corpus']}**: {meta['documents']:,} documents, "
            f"{meta['characters']:,} characters, "
            f"{sum(facts[side]['tokens'] for side in sides(facts)):,} tokens."
        ),
        params=flatten(params.model_dump(include={"prepare", "split"})),
        tags={"role": "corpus", "corpus": meta["corpus"], "corpus_sha256": meta["sha256"]},
    ) as run:
        run.log_metrics(numbers(meta, facts))
        log_statistics(run, corpus, facts["statistics"])


def sides(facts: dict[str, Any]) -> list[str]:
    return [side for side in ("train", "val", "test") if side in facts]


def numbers(meta: dict[str, Any], facts: dict[str, Any]) -> dict[str, float]:
    """The run's metrics: sizes, means, and what was left out by its reason."""
    sizes = {f"{side}/{name}": n for side in sides(facts) for name, n in facts[side].items()}
    left_out = {f"left_out/{reason}": count for reason, count in meta["left_out"].items()}
    means = {k: v for k, v in facts["statistics"].items() if isinstance(v, int | float)}
    return (
        {key: meta[key] for key in ("documents", "characters", "bytes")} | sizes | means | left_out
    )


def log_statistics(run: Run, corpus: Corpus, tokens: dict[str, Any]) -> None:
    """The tables, the figure and the page of excerpts."""
    from pipeline.plots.lengths import length_histograms

    texts = corpus.meta["statistics"]
    run.log_table(tokens["most_common"], "most_common_tokens.json")
    if left_out := list(islice(corpus.left_out(), LISTED)):
        run.log_table(left_out, "left_out.json")
    excerpts = [
        f"## {excerpt['title']}\n\n{excerpt['source']}\n\n{indent(excerpt['text'], '> ')}\n"
        for excerpt in texts["excerpts"]
    ]
    run.log_text("\n".join(excerpts), "excerpts.md")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lengths.png"
        length_histograms(
            {
                "characters": texts["characters_a_document"],
                "tokens": tokens["tokens_a_document"],
            },
            path,
        )
        run.log_artifact(path, "figures")


if __name__ == "__main__":
    main()
