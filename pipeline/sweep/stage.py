"""Read a sweep from MLflow, write its report, and log that as a run of its own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pipeline.errors import UserError
from pipeline.params import Params, load_params
from pipeline.sweep.conclusion import listed
from pipeline.sweep.ranking import Sweep, rank
from pipeline.sweep.report import SweepPage, make_page, write_report
from pipeline.sweep.selection import Scope, select, with_curves
from pipeline.tracking.journals import runs_of_experiments
from pipeline.tracking.mlflow.queries import Reader
from pipeline.tracking.run import start_run

CURVE = "by_tokens/val_loss"
DIGEST_TAG = "lossbook.sweep"  # by which a sweep that is read again is known


def run(
    scope: Scope, metric: str, experiment: str | None, reports: Path, *, log: bool
) -> tuple[Sweep, SweepPage, list[Path]]:
    """Read the sweep within the scope; return it, its report and the files that were written.

    Args:
        experiment: MLflow's; that of `params.yaml` where None.
        log: log the report in MLflow, once.

    Raises:
        UserError: the store failed, nothing lies within the scope, or no run has the metric.
    """
    experiment = experiment or _configured_experiment()
    reader = Reader(experiment)
    sweep = read(reader, scope, metric)
    page = make_page(sweep)
    files = write_report(sweep, page, reports)
    if log:
        record(sweep, page, files, reader, experiment)
    return sweep, page, files


def _configured_experiment() -> str:
    path = Path("params.yaml")
    return (load_params(path) if path.exists() else Params()).tracking.experiment


def read(reader: Reader, scope: Scope, metric: str) -> Sweep:
    """The sweep, with its runs' curves; raises as `run` does."""
    trainings = reader.runs("tags.stage = 'train'")
    failures = reader.runs("attributes.status = 'FAILED' and tags.stage != 'train'")
    chosen = select(trainings, failures, scope, runs_of_experiments)
    known = {name for trial in chosen.trials for name in trial.run.metrics}
    if known and metric not in known:
        summaries = sorted(name for name in known if name.startswith(("best/", "last/")))
        raise UserError(f"--metric {metric}: no run has it; there are {', '.join(summaries)}")
    return rank(with_curves(chosen, lambda run: reader.curve(run, CURVE)), metric)


def record(
    sweep: Sweep, page: SweepPage, files: list[Path], reader: Reader, experiment: str
) -> None:
    """Log the report as a run of its own, unless it is there already."""
    content = json.dumps(sweep.as_json(), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    if reader.runs(f"tags.`{DIGEST_TAG}` = '{digest}' and attributes.status = 'FINISHED'"):
        return
    with start_run(
        "sweep",
        experiment=experiment,
        name=f"sweep of {listed(sweep.swept)}",
        description=next(f for f in files if f.suffix == ".md").read_text(encoding="utf-8"),
        params={"sweep.params": list(sweep.swept), "sweep.metric": sweep.metric},
        tags={DIGEST_TAG: digest, "verdict": page.conclusion, "corpus": sweep.selection.corpus},
    ) as run:
        counts = {"runs": len(sweep.selection.trials), "failed": len(sweep.failed)}
        run.log_metrics({f"sweep/{name}": float(count) for name, count in counts.items()})
        if sweep.best:
            run.log_metrics({sweep.metric: sweep.best.mean})
        for path in files:
            run.log_artifact(path)
