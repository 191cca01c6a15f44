"""`lossbook sweep`: what a sweep came to, read from MLflow."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import click

from pipeline.commands.console import FOLDER, Command, echo
from pipeline.commands.tables import print_table
from pipeline.errors import UserError
from pipeline.system.text import shortened

EPOCH = datetime(1970, 1, 2)  # in every time zone a time that there is
DAYS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]


@click.command(cls=Command)
@click.option(
    "--where",
    multiple=True,
    metavar="KEY=VALUE[,VALUE]",
    help="Runs with this param, or on this corpus.",
)
@click.option("--commit", help="The sweep that began there; the newest run's by default.")
@click.option("--all-commits", is_flag=True, help="Runs from any commit.")
@click.option("--since", type=click.DateTime(DAYS), help="Runs that began then or later.")
@click.option("--metric", default="best/val_loss", show_default=True, help="Lower is better.")
@click.option("--experiment", help="MLflow's; that of params.yaml by default.")
@click.option("--reports", type=FOLDER, default=Path("reports"), show_default=True)
@click.option("--log/--no-log", default=True, show_default=True, help="Record it in MLflow.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def sweep(
    where: tuple[str, ...],
    commit: str | None,
    all_commits: bool,
    since: datetime | None,
    metric: str,
    experiment: str | None,
    reports: Path,
    log: bool,
    as_json: bool,
) -> None:
    """Read a sweep from MLflow: its settings, lowest loss first, and which leads are no chance.

    A sweep is the training runs that began from the commit of the newest one, on the same text;
    those that DVC restored are among them. Writes sweep.html, sweep.md and sweep.png, and
    records them in MLflow.
    """
    from pipeline.sweep import selection, stage

    scope = selection.Scope(
        where=parse_where(where),
        commit=commit,
        every_commit=all_commits,
        since=round(max(since, EPOCH).timestamp() * 1000) if since else 0,
    )
    found, page, files = stage.run(scope, metric, experiment, reports, log=log)
    if as_json:
        echo(json.dumps(found, indent=2))
        return
    for table in page.tables:
        echo(table.title)
        print_table([list(table.headings), *map(list, table.rows)])
        echo()
    echo(page.conclusion)
    if page.ladder:
        echo(page.ladder)
    echo(f"written: {', '.join(map(str, files))}")


def parse_where(given: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """`("train.epochs=5,10",)` -> `{"train.epochs": ("5", "10")}`.

    Raises:
        UserError: a condition without `=`.
    """
    found = {}
    for condition in given:
        key, equals, values = condition.partition("=")
        if not (key and equals):
            raise UserError(
                f"--where {shortened(condition)}: give KEY=VALUE, such as train.epochs=10"
            )
        found[key] = tuple(values.split(","))
    return found
