"""Sample from the trained model over temperatures and top-k, and measure what they do."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, FOLDER, Command


@click.command(cls=Command)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--tokens", type=FOLDER, required=True, help="Folder of train/ and val/ tokens.")
@click.option("--model", "folder", type=FOLDER, required=True, help="The trained model's folder.")
@click.option("--parent", type=FILE, required=True, help="The train stage's run record.")
@click.option("--reports", type=FOLDER, required=True, help="Folder to write samples.* to.")
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(
    params_file: Path, tokens: Path, folder: Path, parent: Path, reports: Path, journal: Path
) -> None:
    """Sample over the grid of params.yaml's `sample` section, and measure the samples.

    GPT-2 small's judgement of them, which depends on whether it is at hand, goes to MLflow alone.
    """
    from pipeline.sampling.stage import sample

    sample(params_file, tokens, folder, parent, reports, journal)


if __name__ == "__main__":
    main()
