"""`lossbook check`: what is wrong with the settings, before DVC reads them."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, Command
from pipeline.system.text import quoted


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
def check(params: Path) -> None:
    """Say what is wrong with params.yaml, before DVC reads it.

    Every problem is a line and ends the command with status 1; what is right and hardly meant is
    a warning.
    """
    from pipeline.params import load_params
    from pipeline.params_advice import advice

    for line in [*advice(load_params(params)), *queue_advice(Path.cwd())]:
        click.echo(f"warning: {line}", err=True)


def queue_advice(folder: Path) -> list[str]:
    """What DVC's queue, which holds the folder's path as a URL, cannot work with."""
    path = str(folder)
    if path.isascii() and "#" not in path:
        return []
    return [
        f"{quoted(path)}: DVC's queue (`dvc queue start`, `dvc exp run --queue`) needs a path "
        "without # and of ASCII letters; `dvc repro` and `dvc exp run` work"
    ]
