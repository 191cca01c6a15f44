"""`lossbook sweep`: what a sweep came to, read from MLflow."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.commands.console import FOLDER, Command
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.sweep.ranking import Sweep
    from pipeline.sweep.selection import Scope
    from pipeline.tracking.mlflow.queries import Reader

CURVE = "by_tokens/val_loss"
DIGEST_TAG = "lossbook.sweep"  # by which a sweep that is read again is known
DAYS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]


@click.command(cls=Command)
@click.option("--where", multiple=True, metavar="KEY=VALUE[,VALUE]", help="Runs with this param.")
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
    """Read a sweep from MLflow: its settings, best first, with mean and spread over seeds.

    A sweep is the training runs that began from the commit of the newest one, on the same text;
    those that DVC restored are among them. Writes sweep.html, sweep.md and sweep.png, and
    records them in MLflow.
    """
    from pipeline.sweep.selection import Scope
    from pipeline.tracking.mlflow.queries import Reader

    scope = Scope(
        where=parse_where(where),
        commit=commit,
        every_commit=all_commits,
        since=round(since.timestamp() * 1000) if since else 0,
    )
    experiment = experiment or configured_experiment()
    reader = Reader(experiment)
    found = read(reader, scope, metric)
    files = write(found, reports)
    if log:
        record(found, files, reader, experiment)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        show(found, files)


def parse_where(given: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """`("train.epochs=5,10",)` -> `{"train.epochs": ("5", "10")}`.

    Raises:
        UserError: a condition without `=`.
    """
    found = {}
    for condition in given:
        key, equals, values = condition.partition("=")
        if not (key and equals):
            raise UserError(f"--where {condition}: give KEY=VALUE, such as train.epochs=10")
        found[key] = tuple(values.split(","))
    return found


def configured_experiment() -> str:
    from pipeline.params import Params, load_params

    path = Path("params.yaml")
    return (load_params(path) if path.exists() else Params()).tracking.experiment


def read(reader: Reader, scope: Scope, metric: str) -> Sweep:
    """
    Raises:
        UserError: the store failed, nothing lies within the scope, or no run has the metric.
    """
    from pipeline.sweep.ranking import rank
    from pipeline.sweep.selection import select, with_curves
    from pipeline.tracking.journals import runs_of_experiments

    trainings = reader.runs("tags.stage = 'train'")
    failures = reader.runs("attributes.status = 'FAILED' and tags.stage != 'train'")
    chosen = select(trainings, failures, scope, runs_of_experiments)
    known = {name for trial in chosen.trials for name in trial.run.metrics}
    if known and metric not in known:
        summaries = sorted(name for name in known if name.startswith(("best/", "last/")))
        raise UserError(f"--metric {metric}: no run has it; there are {', '.join(summaries)}")
    return rank(with_curves(chosen, lambda run: reader.curve(run, CURVE)), metric)


def write(found: Sweep, reports: Path) -> list[Path]:
    from pipeline.sweep.report import write_report

    return write_report(found, reports)


def record(found: Sweep, files: list[Path], reader: Reader, experiment: str) -> None:
    """Log the report as a run of its own, unless it is there already."""
    from pipeline.sweep.verdict import listed, verdict
    from pipeline.tracking.run import start_run

    content = json.dumps(found.as_json(), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    if reader.runs(f"tags.`{DIGEST_TAG}` = '{digest}' and attributes.status = 'FINISHED'"):
        return
    trials = found.selection.trials
    with start_run(
        "sweep",
        experiment=experiment,
        name=f"sweep of {listed(found.swept)}",
        description=next(f for f in files if f.suffix == ".md").read_text(encoding="utf-8"),
        params={"sweep.params": list(found.swept), "sweep.metric": found.metric},
        tags={DIGEST_TAG: digest, "verdict": verdict(found), "corpus": found.selection.corpus},
    ) as run:
        counts = {"runs": len(trials), "failed": len(found.failed)}
        run.log_metrics({f"sweep/{name}": float(count) for name, count in counts.items()})
        if found.best:
            run.log_metrics({found.metric: found.best.mean})
        for path in files:
            run.log_artifact(path)


def show(found: Sweep, files: list[Path]) -> None:
    from pipeline.commands.tables import print_table
    from pipeline.sweep.report import tables
    from pipeline.sweep.verdict import verdict

    for table in tables(found):
        click.echo(table.title)
        print_table([list(table.headings), *map(list, table.rows)])
        click.echo()
    click.echo(verdict(found))
    click.echo(f"written: {', '.join(map(str, files))}")
