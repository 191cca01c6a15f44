"""Read a sweep from MLflow, write its report, and log that as a run of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.gpt2.sizes import SIZES
from pipeline.params import Params, load_params
from pipeline.sweep.conclusion import listed
from pipeline.sweep.ladder import climb
from pipeline.sweep.ranking import Sweep, by_seed, have_same_seeds, rank
from pipeline.sweep.report import SweepPage, make_page, write_report
from pipeline.sweep.selection import Scope, select, with_curves
from pipeline.sweep.sources import Floats, Sources, sources
from pipeline.tokens.unit_losses import VAL_UNITS, UnitLosses
from pipeline.tracking.journals import runs_of_experiments
from pipeline.tracking.mlflow.queries import Reader, Recorded
from pipeline.tracking.run import start_run

BASELINES = "tags.stage = 'baseline' and attributes.status = 'FINISHED'"
BASELINE_LOSS = "last/val_loss"
EVALUATIONS = "tags.stage = 'evaluate' and attributes.status = 'FINISHED'"
SAME = 2e-3  # of a loss: how far `evaluate` and the training may differ by precision
CURVE = "by_tokens/val_loss"
DIGEST_TAG = "lossbook.sweep"  # by which a sweep that is read again is known


def run(
    scope: Scope, metric: str, experiment: str | None, reports: Path, *, log: bool
) -> tuple[dict[str, Any], SweepPage, list[Path]]:
    """Read the sweep within the scope.

    Returns:
        All of it as JSON, its report, and the files that were written.

    Args:
        experiment: MLflow's; that of `params.yaml` where None.
        log: log the report in MLflow, once.

    Raises:
        UserError: the store failed, nothing lies within the scope, or no run has the metric.
    """
    experiment = experiment or _configured_experiment()
    reader = Reader(experiment)
    sweep = read(reader, scope, metric)
    ladder = climb(sweep, lambda: gpt2_levels(sweep, reader))
    page = make_page(sweep, ladder)
    files = write_report(sweep, ladder, page, reports)
    content = sweep.as_json() | ({"ladder": ladder.as_json()} if ladder else {})
    if log:
        record(content, sweep, page, files, reader, experiment)
    return content, page, files


def _configured_experiment() -> str:
    path = Path("params.yaml")
    return (load_params(path) if path.exists() else Params()).tracking.experiment


def read(reader: Reader, scope: Scope, metric: str) -> Sweep:
    """The sweep, with its runs' curves; raises as `run` does."""
    trainings = reader.runs("tags.stage = 'train'")
    failures = reader.runs("attributes.status = 'FAILED' and tags.stage != 'train'")
    chosen = select(
        trainings, failures, scope, runs_of_experiments, averages=metric.startswith("ema/")
    )
    known = {name for trial in chosen.trials for name in trial.run.metrics}
    if known and metric not in known:
        summaries = sorted(name for name in known if name.startswith(("best/", "last/", "ema/")))
        raise UserError(f"--metric {metric}: no run has it; there are {', '.join(summaries)}")
    sweep = rank(with_curves(chosen, lambda run: reader.curve(run, CURVE)), metric)
    return replace(sweep, sources=sources_of(sweep, reader))


def gpt2_levels(sweep: Sweep, reader: Reader) -> dict[str, float]:
    """The losses of GPT-2's sizes that were measured on the windows of the sweep's validation.

    None where its trainings measured some of the windows only, or several texts' or lengths'.
    """
    trials = [trial.run for setting in sweep.settings for trial in setting.trials]
    if any(run.params.get("train.eval_windows", "null") != "null" for run in trials):
        return {}
    text = {run.validation for run in trials}
    losses = {  # of several runs the newest
        run.name.removeprefix("gpt2-"): run.metrics[BASELINE_LOSS]
        for run in reader.runs(BASELINES)
        if {run.validation} == text != {None} and BASELINE_LOSS in run.metrics
    }
    return {size.title: losses[name] for name, size in SIZES.items() if name in losses}


def sources_of(sweep: Sweep, reader: Reader) -> Sources | None:
    """Of the gap to the second setting, from what `evaluate` left in the store of their runs.

    Returns:
        None where a run has nothing of its kind, or other text or weights were measured.
    """
    version, _, loss = sweep.metric.partition("/")
    two = sweep.settings[:2]
    if version not in ("best", "last") or loss != "val_loss" or len(two) < 2 or not two[1].gap:
        return None
    runs = {run.parent: run for run in reader.runs(EVALUATIONS)}  # of several the newest
    found = [
        [_unit_losses(reader, runs.get(trial.run.run_id)) for trial in setting.trials]
        for setting in two
    ]
    units = [u for of_setting in found for u in of_setting if u is not None]
    if len(units) < sum(map(len, found)) or len({(u.unit, u.tokens) for u in units}) > 1:
        return None
    tokens = np.array(units[0].tokens)
    tables: list[Floats] = []
    for setting, losses in zip(two, found, strict=True):
        sums = np.array([getattr(u, version) for u in losses if u is not None])
        if not np.allclose(sums.sum(1) / tokens.sum(), setting.scores, rtol=SAME, atol=0):
            return None
        tables.append(np.array(by_seed(setting, list(sums))))
    lower, other = tables
    return sources(lower, other, tokens, units[0].unit, paired=have_same_seeds(two))


def _unit_losses(reader: Reader, run: Recorded | None) -> UnitLosses | None:
    try:
        data = reader.artifact(run, VAL_UNITS) if run else None
        return UnitLosses.parse(data, VAL_UNITS) if data is not None else None
    except UserError:  # not to be had, or another program's: as if there were none
        return None


def record(
    content: Mapping[str, Any],
    sweep: Sweep,
    page: SweepPage,
    files: Sequence[Path],
    reader: Reader,
    experiment: str,
) -> None:
    """Log the report as a run of its own, unless it is there already."""
    text = json.dumps(content, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
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
