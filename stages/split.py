"""Split the corpus into training, validation and, if asked for, test tokens."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.console import FILE, FOLDER, Command


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--corpus", type=FOLDER, required=True, help="The folder that prepare wrote.")
@click.option("--tokens", type=FOLDER, required=True, help="The folder to write.")
@click.option("--report", type=FILE, required=True, help="The JSON file to write.")
def main(params: Path, corpus: Path, tokens: Path, report: Path) -> None:
    """Split the corpus into training, validation and test tokens, memory-mapped uint16."""
    from pipeline.data.parquet import Corpus
    from pipeline.data.split import split
    from pipeline.files import write_json
    from pipeline.params import load_params
    from pipeline.progress import Progress

    settings = load_params(params)
    total = Corpus.open(corpus).meta["characters"]
    with Progress(total, "split", unit="character") as bar:
        facts = split(
            corpus,
            tokens,
            settings.split.train_fraction,
            settings.split.test_fraction,
            scheduler=settings.prepare.scheduler,
            progress=bar.advance,
        )
    write_json(report, facts)
    for side in ("train", "val", "test"):
        if side in facts:
            click.echo(f"{side}: {facts[side]['tokens']:,} tokens")


if __name__ == "__main__":
    main()
