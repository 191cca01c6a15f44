"""`lossbook export`."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.console import Command

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(cls=Command)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--model",
    default="models/scratch",
    show_default=True,
    help="A model's folder, or gpt2-124M, gpt2-355M, gpt2-774M or gpt2-1558M.",
)
@click.option(
    "--weights",
    type=click.Choice(["best", "last"]),
    default="last",
    show_default=True,
    help="Of a model's folder: those of the lowest validation loss, or of the last step.",
)
@click.option("--params", "params_file", type=FILE, default=Path("params.yaml"), show_default=True)
def export(folder: Path, model: str, weights: str, params_file: Path) -> None:
    """Write a model into FOLDER in Hugging Face's layout, as `transformers` loads it."""
    from pipeline.gpt2 import export as exporting
    from pipeline.params import Gpt2, load_params

    settings = load_params(params_file).gpt2 if params_file.exists() else Gpt2()
    chosen = exporting.open_model(model, "best" if weights == "best" else "last", settings)
    exporting.export(chosen, folder)
    click.echo(f"{folder}: {chosen.count_parameters():,} parameters")
