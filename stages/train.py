"""Pretrain the GPT: tokens in; weights, loss history, figure and summary out."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, FOLDER, Command


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--tokens", type=FOLDER, required=True, help="Folder of train/ and val/ tokens.")
@click.option("--model", type=FOLDER, required=True, help="Folder of weights to write.")
@click.option(
    "--reports", type=FOLDER, required=True, help="Folder of history, figure and summary."
)
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(params: Path, tokens: Path, model: Path, reports: Path, journal: Path) -> None:
    """Pretrain the GPT of params.yaml's `model` section as its `train` section says.

    With `train.processes` above 1, and under torchrun, several processes train together. Rank 0
    alone writes, logs and reports.
    """
    from pipeline.training.stage import train

    train(params, tokens, model, reports, journal)


if __name__ == "__main__":
    main()
