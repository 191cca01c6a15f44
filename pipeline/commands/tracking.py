"""`lossbook ui`, `runs`, `sync` and `reap`."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import FOLDER, Command, echo
from pipeline.commands.tables import print_table
from pipeline.errors import UserError
from pipeline.system.process import sigterm_raises
from pipeline.system.text import shortened
from pipeline.tracking import lifecycle

if TYPE_CHECKING:  # to import them takes seconds
    from pipeline.tracking.journals import ListedRun
    from pipeline.tracking.mlflow.sync import Synced

as_json = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
brought = click.option(
    "--journals",
    type=FOLDER,
    default=Path("journals"),
    show_default=True,
    help="Where DVC puts the journals of stages.",
)


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def ui(port: int) -> None:
    """Open MLflow's web interface, on 127.0.0.1, until Ctrl-C.

    Another free port is taken where PORT is in use. The first address is MLflow's, the second
    the list of trainings, the best first, with the params that differ; the third has the same by
    setting, averaged over seeds. With MLFLOW_TRACKING_URI set to a server, that server's address
    is printed.
    """
    from pipeline.tracking.mlflow.ui import free_port, log_file, serve, share_views

    with suppress(KeyboardInterrupt), sigterm_raises(), serve(free_port(port)) as (url, process):
        echo(f"MLflow: {url}" + ("  (Ctrl-C ends it)" if process else ""))
        if process is None:
            return
        for (experiment, view), page in share_views().items():
            echo(f"{experiment}, {view}: {url}/{page}", keep="")
        if process.wait() != 0:
            raise UserError(f"the server ended by itself; its output is in {log_file()}")


@click.command(cls=Command)
@click.option("--metric", "metrics", multiple=True, help="A metric to show; may be repeated.")
@as_json
def runs(metrics: tuple[str, ...], as_json: bool) -> None:
    """List runs as a tree, newest first, with their last numbers.

    `reports` says which runs the files in reports/ come from: `ran` where the run wrote them,
    `restored` where DVC or Git brought back those of an earlier one.
    """
    from pipeline.tracking.journals import HEADLINES, rows

    listed = rows(Path.cwd(), _warn)
    if as_json:
        echo(json.dumps([asdict(row) for row in listed], indent=2))
    elif not listed:
        echo("no runs yet; `dvc repro` makes some")
    else:
        print_table(_table(listed, metrics or HEADLINES))


def _warn(line: str) -> None:
    echo(f"warning: {line}", keep="", err=True)


def _table(listed: list[ListedRun], metrics: tuple[str, ...]) -> list[list[str]]:
    table = [["run", "stage", "status", "started", *metrics, "reports"]]
    for row in listed:
        values = [_number(row.metrics.get(metric)) for metric in metrics]
        indent = "  " * row.depth
        table.append(
            [f"{indent}{row.name}", row.stage, row.status, row.started, *values, row.reports]
        )
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


@click.command(cls=Command)
@brought
@as_json
def sync(journals: Path, as_json: bool) -> None:
    """Send to MLflow what it lacks of all runs, and rebuild what it has lost.

    As often as you like: nothing arrives twice, and runs deleted in MLflow stay deleted. A run
    that MLflow will not have is named, with the reason, and the exit status is then 1.
    """
    from pipeline.tracking.mlflow.sync import gather, synced

    outcomes = []
    for one in synced(gather(journals, _warn)):
        outcomes.append(one)
        if not as_json:
            line = f"{one.outcome}: {shortened(one.entry.run.name)} ({one.entry.run.key})"
            if one.outcome == "refused":
                echo(f"{line}: {'; '.join(one.remarks)}", keep="")
                continue
            echo(line, keep="")
            for remark in one.remarks:
                echo(f"  {remark}", keep="")
    if as_json:
        echo(json.dumps([_synced(one) for one in outcomes], indent=2))
    elif not outcomes:
        echo("no journals here; `dvc pull` or `dvc checkout` brings those of other machines")
    if refused := sum(one.outcome == "refused" for one in outcomes):
        raise UserError(f"{refused} of {len(outcomes)} runs refused; their journals are kept")


def _synced(one: Synced) -> dict[str, Any]:
    return {
        "run": one.entry.run.key,
        "name": one.entry.run.name,
        "outcome": one.outcome,
        "run_id": one.run_id,
        "remarks": one.remarks,
    }


@click.command(cls=Command)
@click.option("--discard", is_flag=True, help="Give up runs that could go on, too.")
@as_json
def reap(discard: bool, as_json: bool) -> None:
    """End, as KILLED, runs of this host whose process is gone.

    A run that can go on stays in its state folder, and the next `dvc repro` continues it; with
    --discard it is given up, and the checkpoints that it would need are deleted.
    """
    from pipeline.tracking.mlflow.sync import reap_everywhere

    ended = reap_everywhere(_warn)
    given_up = [folder.name for folder in lifecycle.discard()] if discard else []
    if as_json:
        echo(json.dumps({"killed": ended, "discarded": given_up}, indent=2))
        return
    lines = [f"killed: {run}" for run in ended] + [f"discarded: {run}" for run in given_up]
    for line in lines or ["no run needs to be ended"]:
        echo(line, keep="")
