"""A repository for runs, and snapshots of what a store holds, to compare stores by."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pipeline.tracking.mlflow import ENVIRONMENT
from pipeline.tracking.mlflow.sender import Sender
from pipeline.tracking.mlflow.store import Store, connect
from pipeline.tracking.tags import RUN_KEY
from tests.helpers.servers import MlflowServer, Postgres, Proxy, postgres_programs

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh store, made once: making one takes seconds."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect()
    return folder / "mlflow.db"


@pytest.fixture
def bare_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository that is the working folder; its store is still to be made."""
    repo = tmp_path / "repo"
    (repo / ".dvc").mkdir(parents=True)
    monkeypatch.chdir(repo)
    monkeypatch.setenv("DVC_ROOT", str(repo))
    for variable in ("MLFLOW_TRACKING_URI", "DVC_STAGE", "DVC_EXP_NAME", "LOSSBOOK_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    # Senders share this process, which has imported MLflow; those of programs have their own.
    monkeypatch.setattr("pipeline.tracking.run.SenderProcess", Sender)
    return repo


@pytest.fixture
def repo(bare_repo: Path, template: Path) -> Path:
    """An empty repository with an empty store."""
    shutil.copyfile(template, bare_repo / "mlflow.db")
    return bare_repo


@pytest.fixture
def offline(bare_repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose runs are only journalled."""
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")
    return bare_repo


@pytest.fixture
def store(repo: Path) -> Store:
    return connect()


@pytest.fixture
def lossbook(bare_repo: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `lossbook ARGUMENTS` as a process of its own."""

    def call(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=check)

    return call


@pytest.fixture
def python(bare_repo: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Start a Python program that may import the pipeline; what still runs at the end is killed."""
    started = []

    def start(program: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(PROJECT), **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a shell that runs the tests in the background has its children ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """`mlflow server` on SQLite."""
    folder = tmp_path_factory.mktemp("server")
    server = MlflowServer(folder, f"sqlite:///{folder / 'server.db'}")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # Outside pytest's own folder, which PostgreSQL's user may not enter.
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        postgres = Postgres(Path(folder), programs)
        yield postgres
        postgres.stop()


@pytest.fixture
def proxy(
    bare_repo: Path, server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    """A repository whose store is the server, behind a proxy."""
    proxy = Proxy(server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    yield proxy
    proxy.close()


def snapshot(store: Store) -> dict[str, dict[str, Any]]:
    """All that the store holds of our runs, by their keys; ids that a store makes up left out."""
    client = store.client
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = list(client.search_runs(ids))
    keys = {run.info.run_id: run.data.tags[RUN_KEY] for run in runs}
    return {keys[run.info.run_id]: _snapshot_of(store, run, keys) for run in runs}


def _snapshot_of(store: Store, run: Any, keys: Mapping[str, str]) -> dict[str, Any]:
    tags = dict(run.data.tags)
    if "mlflow.parentRunId" in tags:
        tags["mlflow.parentRunId"] = keys[tags["mlflow.parentRunId"]]
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "tags": tags,
        "metrics": {key: history(store, run.info.run_id, key) for key in run.data.metrics},
        "inputs": sorted(
            (i.dataset.name, i.dataset.digest, i.dataset.source, i.dataset.profile, str(i.tags))
            for i in run.inputs.dataset_inputs
        ),
        "artifacts": _artifacts(store, run.info.run_id),
    }


def history(store: Store, run_id: str, key: str) -> list[tuple[int, int, str]]:
    """Every point of a metric: step, time, value; NaN made comparable."""
    points = store.client.get_metric_history(run_id, key)
    return sorted((p.step, p.timestamp, repr(p.value)) for p in points)


def _artifacts(store: Store, run_id: str, folder: str | None = None) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for item in store.client.list_artifacts(run_id, folder):
        if item.is_dir:
            files.update(_artifacts(store, run_id, item.path))
        else:
            files[item.path] = Path(store.client.download_artifacts(run_id, item.path)).read_bytes()
    return files


@pytest.fixture
def snapshot_of() -> Callable[[Store], dict[str, dict[str, Any]]]:
    return snapshot


def registry(store: Store) -> dict[str, dict[str, Any]]:
    """Every registered version, by name and number; ids that a store makes up left out."""
    client = store.client
    found = {}
    for listed in client.search_registered_models():
        model = client.get_registered_model(listed.name)  # the listings leave aliases out
        for version in client.search_model_versions(f"name = '{model.name}'"):
            logged = client.get_logged_model(version.source.removeprefix("models:/"))
            run = client.get_run(version.run_id)
            found[f"{version.name}/{version.version}"] = {
                "run": run.data.tags[RUN_KEY],
                "of_the_run": [logged.model_id] == [m.model_id for m in run.outputs.model_outputs],
                "aliases": sorted(a for a, v in model.aliases.items() if v == version.version),
                "tags": (dict(version.tags), dict(logged.tags)),
                "params": logged.params,
                "metrics": sorted(
                    (m.key, m.value, m.step, m.timestamp, str(m.dataset_digest))
                    for m in logged.metrics
                ),
                "status": str(logged.status),
                "weights": sorted(
                    hashlib.sha256(path.read_bytes()).hexdigest()
                    for path in Path(logged.artifact_location.removeprefix("file://")).rglob("*")
                    if path.suffix == ".safetensors"
                ),
            }
    return found


@pytest.fixture
def registry_of() -> Callable[[Store], dict[str, dict[str, Any]]]:
    return registry
