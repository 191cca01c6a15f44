"""Put every model's losses side by side: table, figure and report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.commands.console import FILE, FOLDER, Command, echo


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--corpus", type=FILE, required=True, help="What `prepare` reports.")
@click.option("--split", type=FILE, required=True, help="What `split` reports.")
@click.option("--train", type=FILE, required=True, help="What `train` reports.")
@click.option("--tokens", type=FOLDER, required=True, help="Folder of val/ and test/ tokens.")
@click.option("--history", type=FILE, required=True, help="The losses of training.")
@click.option("--evaluate", type=FILE, required=True, help="What `evaluate` reports.")
@click.option("--baselines", type=FOLDER, required=True, help="SIZE.json of each GPT-2.")
@click.option("--token-losses", type=FOLDER, required=True, help="Each model's loss by token.")
@click.option("--samples", type=FILE, help="The sampling grid of `sample`, to be shown as well.")
@click.option("--parent", type=FILE, required=True, help="The train stage's run record.")
@click.option("--reports", type=FOLDER, required=True, help="Where to write comparison.*.")
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(**files: Any) -> None:
    """Put every model's losses side by side: table, figure and report."""
    from pipeline.comparison.stage import compare

    echo(compare(**files))


if __name__ == "__main__":
    main()
