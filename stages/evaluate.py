"""Measure the scratch model over the full splits: untrained, at its best, at the end."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, FOLDER, Command


@click.command(cls=Command)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--tokens", type=FOLDER, required=True, help="Folder of train/ and val/ tokens.")
@click.option("--model", "folder", type=FOLDER, required=True, help="The trained model's folder.")
@click.option("--parent", type=FILE, required=True, help="The train stage's run record.")
@click.option("--report", type=FILE, required=True, help="JSON of losses to write")
@click.option("--metrics", type=FILE, required=True, help="JSON of the headline numbers to write")
@click.option("--token-losses", type=FOLDER, required=True, help="Losses by token to write.")
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(**files: Path) -> None:
    """Loss, perplexity and bits per byte of a training's weights, and of an ensemble."""
    from pipeline.evaluation.stage import evaluate

    evaluate(**files)


if __name__ == "__main__":
    main()
