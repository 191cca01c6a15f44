"""Split the corpus into training, validation and, if asked for, test tokens."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, FOLDER, Command, echo


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--corpus", type=FOLDER, required=True, help="The folder that prepare wrote.")
@click.option("--tokens", type=FOLDER, required=True, help="The folder to write.")
@click.option("--report", type=FILE, required=True, help="The JSON file to write.")
def main(params: Path, corpus: Path, tokens: Path, report: Path) -> None:
    """Split the corpus into training, validation and test tokens, memory-mapped uint16."""
    from pipeline.split.stage import run

    run(params, corpus, tokens, report, notify=echo)


if __name__ == "__main__":
    main()
