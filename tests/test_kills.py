"""`kill -9` at a random moment of a short training, then `dvc repro`: as if nothing had been.

Fifty times, each in a repository of its own with the real pipeline: every second kill takes the
stage alone, the others DVC with it, as a power cut does.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from pipeline.tracking.journal import JOURNAL, read_events
from tests.helpers.repository import Repository, outside

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 50
CLOCK = "train/tokens_per_second"  # its values are the machine's, its steps the training's
History = dict[str, list[tuple[int, float | None]]]


@dataclass(frozen=True)
class Undisturbed:
    """A repository whose tokens are ready, and what came of training a copy of it unkilled."""

    folder: Path
    seconds: float
    history: History
    table: bytes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    place = tmp_path_factory.mktemp("kills")
    folder = place / "ready"
    folder.mkdir()
    repository = Repository(folder)
    repository.set("train.epochs", "20")
    repository.set("train.precision", "fp32")  # `auto` measures, and under load finds this or that
    repository.run("dvc", "repro", "split")
    repository.commit()
    whole = copied(folder, place / "whole")
    dvc, stage = training(whole)
    start = time.monotonic()
    stage.wait()
    seconds = time.monotonic() - start
    assert dvc.wait() == 0
    ((status, history),) = recorded(whole)
    assert status == "FINISHED"
    assert len(history["train/loss"]) == 80
    return Undisturbed(folder, seconds, history, table(whole))


def copied(source: Path, target: Path) -> Repository:
    shutil.copytree(source, target, symlinks=True)
    repository = Repository.__new__(Repository)
    repository.folder = target
    return repository


def training(repository: Repository) -> tuple[subprocess.Popen[bytes], psutil.Process]:
    """Start `dvc repro train`; it, and its stage's process once that is there."""
    dvc = subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=repository.folder,
        env={
            **outside(),
            "DVC_NO_ANALYTICS": "1",
            "LOSSBOOK_CACHE": str(repository.folder.parent / "cache"),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while True:
        for process in psutil.Process(dvc.pid).children(recursive=True):
            try:
                if process.cmdline()[1:3] == ["-m", "stages.train"]:
                    return dvc, process
            except psutil.Error:  # gone already
                continue
        assert dvc.poll() is None, "dvc ended before it trained"
        time.sleep(0.005)


def survived(repository: Repository, after: float, *, with_dvc: bool) -> float | None:
    """Start a training and kill it; the seconds that it took where it was over before."""
    dvc, stage = training(repository)
    start = time.monotonic()
    with suppress(psutil.TimeoutExpired):
        stage.wait(after)
        dvc.wait()
        return time.monotonic() - start
    try:
        if with_dvc:
            stage.suspend()  # it would outlive its DVC by the time that a signal takes
            os.killpg(dvc.pid, signal.SIGKILL)
        stage.kill()
    except (psutil.NoSuchProcess, ProcessLookupError):
        dvc.wait()
        return after
    stage.wait()
    return after if dvc.wait() == 0 else None


def recorded(repository: Repository) -> list[tuple[str, History]]:
    """Every training in the store: its status, and each metric's steps and values."""
    client = MlflowClient(f"sqlite:///{repository.folder / 'mlflow.db'}")
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = []
    for run in client.search_runs(ids, "tags.stage = 'train'"):
        keys = [key for key in run.data.metrics if not key.startswith("system/")]
        points = {key: client.get_metric_history(run.info.run_id, key) for key in sorted(keys)}
        history = {
            key: [(p.step, None if key == CLOCK else p.value) for p in points[key]] for key in keys
        }
        found.append((run.info.status, {key: sorted(history[key]) for key in sorted(keys)}))
    return found


def table(repository: Repository) -> bytes:
    return (repository.folder / "reports" / "history.csv").read_bytes()


def points_journalled(repository: Repository) -> int:
    journals = (repository.folder / ".lossbook").glob(f"*/*/{JOURNAL}")
    return sum(
        "train/loss" in event.get("m", ()) for path in journals for event in read_events(path)
    )


@pytest.mark.parametrize("seed", range(KILLS))
def test_a_kill_leaves_no_trace(undisturbed: Undisturbed, tmp_path: Path, seed: int) -> None:
    moments = random.Random(seed)
    repository, latest, attempts = (
        copied(undisturbed.folder, tmp_path / "0"),
        undisturbed.seconds,
        0,
    )
    while took := survived(repository, moments.uniform(0, latest), with_dvc=seed % 2 == 1):
        latest = min(latest, took)  # it was quicker than the undisturbed one
        attempts += 1
        repository = copied(undisturbed.folder, tmp_path / str(attempts))
    journalled = points_journalled(repository)
    repository.run("dvc", "repro", "train")
    ((status, history),) = recorded(repository)
    print(f"killed after {journalled} of {len(history['train/loss'])} steps")
    assert status == "FINISHED"
    assert history == undisturbed.history
    assert table(repository) == undisturbed.table
    run_id = json.loads((repository.folder / "reports" / "train_run.json").read_text())["run_id"]
    assert run_id is not None
    shutil.rmtree(tmp_path)
