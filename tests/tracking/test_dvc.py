"""Under a real `dvc repro`: killed, continued, restored, queued."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import paths
from pipeline.tracking.journal import JOURNAL, read_events, read_run
from pipeline.tracking.journals import rows
from pipeline.tracking.mlflow.store import Store, connect

pytestmark = pytest.mark.slow

Snapshot = Callable[[Store], dict[str, dict[str, Any]]]
PROJECT = Path(__file__).parents[2]
STEPS = 150
TRAIN = f"""
import os, sys, time
from pathlib import Path
from pipeline.system.files import write_text
from pipeline.tracking import paths
from pipeline.tracking.run import start_run

rate = float(Path("params.yaml").read_text().removeprefix("rate: "))
state = paths.state_folder("train", str(rate))
with start_run("train", experiment="e", state=state, name=f"rate={{rate}}",
               record=Path("reports/train_run.json"), journal=Path("journals/train")) as run:
    checkpoint = state / "checkpoint"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    write_text(Path(os.environ["DVC_ROOT"], "pid"), str(os.getpid()))
    for step in range(first, {STEPS}):
        run.log_metrics({{"loss": rate / (1 + step)}}, step=step)
        time.sleep(0.002)
        if step % 10 == 9:
            run.sync()
            write_text(checkpoint, str(step + 1))
"""
PIPELINE = """
stages:
  train:
    cmd: python train.py
    deps: [train.py]
    params: [rate]
    outs: [journals/train]
    metrics:
      - reports/train_run.json: {cache: false}
"""


@pytest.fixture
def project(bare_repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git and DVC repository with one stage."""
    (bare_repo / ".dvc").rmdir()
    monkeypatch.delenv("DVC_ROOT")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "t")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "t@example.org")
    (bare_repo / "train.py").write_text(TRAIN)
    (bare_repo / "params.yaml").write_text("rate: 1.0")
    (bare_repo / "dvc.yaml").write_text(PIPELINE)
    call("git", "init", "-q")
    call("dvc", "init", "-q")
    call("dvc", "config", "core.analytics", "false")
    (bare_repo / ".gitignore").write_text(
        "/.lossbook\n/mlflow.db*\n/mlartifacts\n/pid\n/journals\n"
    )
    call("git", "add", ".")
    call("git", "commit", "-qm", "start")
    return bare_repo


def call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stage_at_work(pid_file: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start `dvc repro`; it and its stage's process, once the stage logs."""
    pid_file.unlink(missing_ok=True)
    dvc = subprocess.Popen(["dvc", "repro"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not pid_file.exists():
        assert dvc.poll() is None, "the stage never came to work"
        time.sleep(0.005)
    return dvc, int(pid_file.read_text())


def points(folder: Path) -> list[tuple[int, float]]:
    events = read_events(folder / JOURNAL)
    return [(e["s"], m["loss"]) for e in events if "loss" in (m := e.get("m", {}))]


@pytest.mark.timeout(3600)
def test_kills_each_followed_by_a_repro(project: Path, snapshot_of: Snapshot) -> None:
    """LOSSBOOK_KILLS=50 for the full count."""
    moments = random.Random(0)
    kills = int(os.environ.get("LOSSBOOK_KILLS", "5"))
    for training in range(kills):
        (project / "params.yaml").write_text(f"rate: {1.0 + training}")
        dvc, stage = stage_at_work(project / "pid")
        time.sleep(moments.uniform(0, 0.4))
        os.kill(stage, 9)
        dvc.wait()
        call("dvc", "repro")
        record = json.loads((project / "reports" / "train_run.json").read_text())
        folder = paths.journals() / f"train-{record['run']}"
        expected = [(step, (1.0 + training) / (1 + step)) for step in range(STEPS)]
        assert points(folder) == expected
        assert record["run_id"] is not None
    found = snapshot_of(connect())
    assert len(found) == kills, "one run each"
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    for run in found.values():
        assert [step for step, _, _ in run["metrics"]["loss"]] == list(range(STEPS))


@pytest.mark.parametrize("number", [9, 15])
def test_a_stage_dies_with_its_dvc_and_goes_on_with_the_next(project: Path, number: int) -> None:
    dvc, stage = stage_at_work(project / "pid")
    os.kill(dvc.pid, number)
    dvc.wait()
    while Path(f"/proc/{stage}").exists():
        time.sleep(0.01)
    run_state = read_run(paths.state_folder("train", "1.0"))
    assert run_state is not None
    assert run_state.status == "KILLED"
    call("dvc", "repro")
    (row,) = rows(project)
    assert (row.key, row.status) == (run_state.key, "FINISHED")


def test_what_dvc_restores_is_called_restored(project: Path) -> None:
    call("dvc", "repro")
    assert [(row.name, row.reports) for row in rows(project)] == [("rate=1.0", "ran")]
    (project / "params.yaml").write_text("rate: 2.0")
    call("dvc", "repro")
    (project / "params.yaml").write_text("rate: 1.0")
    call("dvc", "repro")
    assert [(row.name, row.reports) for row in rows(project)] == [
        ("rate=2.0", ""),
        ("rate=1.0", "restored"),
    ]


@pytest.mark.timeout(900)
def test_eight_workers_of_a_fresh_clone_share_one_store(
    project: Path, snapshot_of: Snapshot
) -> None:
    rates = [f"{1 + worker / 10}" for worker in range(8)]
    call("dvc", "exp", "run", "--queue", "-S", f"rate={','.join(rates)}")
    call("dvc", "queue", "start", "-j", "8")
    while any(word in call("dvc", "queue", "status") for word in ("Queued", "Running")):
        time.sleep(1)
    found = snapshot_of(connect())
    assert sorted(run["name"] for run in found.values()) == [f"rate={rate}" for rate in rates]
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    assert len({run["tags"]["dvc.exp_name"] for run in found.values()}) == 8
    for run in found.values():
        assert [step for step, _, _ in run["metrics"]["loss"]] == list(range(STEPS))
