"""Bring the corpus that `prepare.corpus` names into `data/corpus`, as Parquet."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, FOLDER, Command, echo


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--corpus", type=FOLDER, required=True, help="The folder to write.")
@click.option("--report", type=FILE, required=True, help="The JSON file to write.")
def main(params: Path, corpus: Path, report: Path) -> None:
    """Bring the corpus that prepare.corpus names into a folder of Parquet files."""
    from pipeline.corpus.stage import run

    run(params, corpus, report, notify=echo)


if __name__ == "__main__":
    main()
