"""`lossbook export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pipeline.commands.console import FILE, FOLDER, Command, echo
from pipeline.commands.options import model_option, weights_option


@click.command(cls=Command)
@click.argument("folder", type=FOLDER)
@model_option
@weights_option
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
def export(folder: Path, model: str, weights: Any, params: Path) -> None:
    """Write a model into FOLDER in Hugging Face's layout, as `transformers` loads it."""
    from pipeline.gpt2.export import check_target
    from pipeline.gpt2.export import export as write_export
    from pipeline.numbers import counted
    from pipeline.params import Gpt2, load_params
    from pipeline.weights import find

    check_target(folder)  # before a model is fetched or loaded for it
    settings = load_params(params).gpt2 if params.exists() else Gpt2()
    chosen = find(model, weights).load(settings)
    write_export(chosen, folder)
    echo(f"{folder}: {counted(chosen.count_parameters(), 'parameter')}")
