"""Options that several subcommands have."""

from __future__ import annotations

import click

model_option = click.option(
    "--model",
    default="trained",
    show_default=True,
    help="trained, a folder, a run's id, or gpt2-SIZE.",
)
weights_option = click.option(
    "--weights", type=click.Choice(["last", "best", "ema"]), default="last", show_default=True
)
