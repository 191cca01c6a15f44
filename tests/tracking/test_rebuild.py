"""`rm -r mlflow.db mlartifacts; lossbook sync` after the whole pipeline: the same store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.mlflow.store import Store
from tests.helpers.repository import Repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the pipeline runs twice

Snapshot = Callable[[Store], dict[str, dict[str, Any]]]


def test_a_pipelines_whole_record_comes_back(
    tmp_path: Path, snapshot_of: Snapshot, registry_of: Snapshot
) -> None:
    """Two trainings with all their children: params, points, tags, files, links, the registry."""
    folder = tmp_path / "lossbook"
    folder.mkdir()
    repository = Repository(folder)
    repository.repro()
    repository.set("train.learning_rate", "1e-3")
    repository.repro()
    before = snapshot_of(copied(folder)), registry_of(copied(folder))
    stages = sorted(run["tags"]["stage"] for run in before[0].values())
    assert stages == sorted(["train", "evaluate", "sample", "compare"] * 2)
    assert len(before[1]) == 2
    for lost in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm"):
        (folder / lost).unlink(missing_ok=True)
    shutil.rmtree(folder / "mlartifacts")
    done = json.loads(repository.run("lossbook", "sync", "--json").stdout)
    assert {one["outcome"] for one in done} == {"rebuilt"}
    assert [one["remarks"] for one in done] == [[]] * 8
    assert (snapshot_of(copied(folder)), registry_of(copied(folder))) == before
    again = json.loads(repository.run("lossbook", "sync", "--json").stdout)
    assert {one["outcome"] for one in again} == {"there"}


def copied(folder: Path) -> Store:
    """A copy to look at: a process keeps a database that it has opened open."""
    number = len(list(folder.glob("copy*.db")))
    for path in folder.glob("mlflow.db*"):
        shutil.copyfile(path, folder / path.name.replace("mlflow", f"copy{number}"))
    return Store(f"sqlite:///{folder / f'copy{number}.db'}")
