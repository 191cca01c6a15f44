"""`lossbook check`: what is wrong with the settings, before DVC reads them."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.commands.console import FILE, Command, echo


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
def check(params: Path) -> None:
    """Say what is wrong with params.yaml, before DVC reads it, and whether a local corpus is there.

    Every problem is a line and ends the command with status 1; what is right and hardly meant is
    a warning.
    """
    from pipeline.corpus.corpora import local_corpus
    from pipeline.gpt2.location import check_source
    from pipeline.params import load_params, refuse_missing
    from pipeline.params_advice import advice
    from pipeline.tracking.paths import queue_problem

    settings = load_params(params)
    refuse_missing(params, Path("dvc.yaml"))
    local_corpus(settings.prepare)
    check_source(settings.gpt2)
    for line in filter(None, [*advice(settings), queue_problem()]):
        echo(f"warning: {line}", err=True)
    echo(f"{params}: no problems")
