"""Measure one size of OpenAI's GPT-2 on the same tokens, windows and prompts as our model."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, FOLDER, Command, echo


@click.command(cls=Command)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--size", required=True, help="As gpt2.sizes names it.")
@click.option("--tokens", type=FOLDER, required=True, help="Folder of train/ and val/ tokens.")
@click.option("--weights", type=FILE, required=True, help="What fetch_gpt2 reports of the size.")
@click.option("--report", type=FILE, required=True, help="JSON of losses to write.")
@click.option("--token-losses", type=FOLDER, required=True, help="Losses by token to write.")
@click.option("--journal", type=FOLDER, required=True, help="Folder of the run's journal to write.")
def main(size: str, **files: Path) -> None:
    """Loss, perplexity, bits per byte and completions of one GPT-2."""
    from pipeline.evaluation.baseline import baseline

    report = baseline(size=size, **files)
    if report.status == "unavailable":
        echo(f"GPT-2 {size}: not measured: {report.reason}", err=True)


if __name__ == "__main__":
    main()
