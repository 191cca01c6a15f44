"""Runs as the store has them: what others logged, read back in plain Python.

Whoever reads a sweep reads it here, from MLflow, so that runs of colleagues on a shared server
count like those of this machine. Numbers come as MLflow keeps them: a param is text, and an
infinity is the largest float.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Run

from pipeline.errors import UserError
from pipeline.system.text import quoted
from pipeline.tracking.journal import LATEST
from pipeline.tracking.mlflow.store import connect_soon, failures_explained
from pipeline.tracking.tags import PARENT, RUN_KEY, hidden_tag, is_dead

PAGE = 500  # runs in one answer of the store
SMALL = 1 << 20  # bytes


@dataclass(frozen=True)
class Recorded:
    """A run of the store.

    Attributes:
        key: the run's name for itself; empty for one that another program logged.
        status: MLflow's; GONE for one that is RUNNING by a process of this host that is dead.
        started, ended: milliseconds since 1970.
        params: as text.
        metrics: the last value of each.
        data: the digests of the data sets that it read, by name; equal ones may be compared.
        curve: (step, value) of one metric, in the order of its steps.
    """

    run_id: str
    key: str
    name: str
    stage: str
    status: str
    started: int
    ended: int | None
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def parent(self) -> str | None:
        return self.tags.get(PARENT)

    @property
    def validation(self) -> str | None:
        """The digest of the validation windows that it read."""
        return next((digest for name, digest in self.data.items() if name.endswith("/val")), None)


class Reader:
    """The runs of one experiment."""

    def __init__(self, experiment: str) -> None:
        """
        Raises:
            UserError: the store does not answer, or has no such experiment.
        """
        with failures_explained():
            self.store = connect_soon()
            found = self.store.client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage == "deleted":
            raise UserError(
                f"{self.store.name} has no experiment {quoted(experiment)}; "
                "`tracking.experiment` in params.yaml, or --experiment, names the one to read"
            )
        self.experiment_id = found.experiment_id

    def runs(self, condition: str) -> list[Recorded]:
        """Runs that match a condition of MLflow's search, oldest first; deleted ones left out.

        Raises:
            UserError: the store failed.
        """
        found: list[Run] = []
        token = None
        with failures_explained():
            while True:
                page = self.store.client.search_runs(
                    [self.experiment_id],
                    condition,
                    max_results=PAGE,
                    order_by=["attributes.start_time"],
                    page_token=token,
                )
                found += page
                token = page.token
                if not token:
                    return [_recorded(run) for run in found]

    def curve(self, run: Recorded, metric: str) -> tuple[tuple[int, float], ...]:
        """The points of a metric; none where the run has no such metric.

        Raises:
            UserError: the store failed.
        """
        if metric not in run.metrics:
            return ()
        with failures_explained():
            points = self.store.client.get_metric_history(run.run_id, metric)
        return tuple(sorted({point.step: point.value for point in points}.items()))

    def artifact(self, run: Recorded, name: str) -> bytes | None:
        """A small artifact at a run's top; None where the run has none of this name.

        Raises:
            UserError: the store failed.
        """
        with failures_explained(), TemporaryDirectory() as folder:
            logged = self.store.client.list_artifacts(run.run_id)
            if not any(f.path == name and (f.file_size or 0) <= SMALL for f in logged):
                return None
            return Path(self.store.client.download_artifacts(run.run_id, name, folder)).read_bytes()


def _recorded(run: Run) -> Recorded:
    info, data = run.info, run.data
    inputs = run.inputs.dataset_inputs if run.inputs else ()
    return Recorded(
        run_id=info.run_id,
        key=hidden_tag(data.tags, RUN_KEY) or "",
        name=info.run_name or info.run_id,
        stage=data.tags.get("stage", ""),
        status="GONE" if info.status == "RUNNING" and is_dead(data.tags) else info.status,
        started=min(max(info.start_time, 0), LATEST),
        ended=info.end_time,
        params=dict(data.params),
        metrics=dict(data.metrics),
        tags=dict(data.tags),
        data={read.dataset.name: read.dataset.digest for read in inputs},
    )
