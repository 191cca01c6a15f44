"""The same work in two workspaces at once: each does its own, and neither fails."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.tracking import paths
from pipeline.tracking.journal import read_run
from pipeline.tracking.journals import entries

Python = Callable[..., "subprocess.Popen[str]"]
TRAINING = """
import os, sys
from pathlib import Path
from pipeline.tracking import paths
from pipeline.tracking.run import start_run

os.chdir(os.environ["WORKSPACE"])
state = paths.state_folder("train", "0123")
with start_run("train", experiment="e", state=state, journal=Path("journals/train")) as run:
    checkpoint = run.folder / "checkpoint"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    for step in range(first, 10):
        run.log_metrics({"loss": 1 / (1 + step)}, step=step)
        checkpoint.write_text(str(step + 1))
        if step == 4:
            print(first, run.folder.name, flush=True)
            sys.stdin.readline()
"""


class Training:
    """One that stops halfway until it is let go on."""

    def __init__(self, python: Python, workspace: Path) -> None:
        workspace.mkdir(parents=True, exist_ok=True)
        self.workspace = workspace
        self.process = python(TRAINING, WORKSPACE=str(workspace))

    def halfway(self) -> None:
        assert self.process.stdout is not None
        first, self.folder = self.process.stdout.readline().split()
        assert first == "0"

    def finish(self) -> str:
        _, errors = self.process.communicate("\n")
        assert self.process.returncode == 0, errors
        return errors

    def losses(self) -> dict[int, float]:
        run = read_run(self.workspace / "journals" / "train")
        assert run is not None
        return {run.metrics["loss"].step: run.metrics["loss"].value}


@pytest.fixture
def temporary(offline: Path) -> Path:
    return offline / ".dvc" / "tmp" / "exps" / "tmp1"


def test_the_second_works_apart(offline: Path, python: Python, temporary: Path) -> None:
    first = Training(python, offline)
    first.halfway()
    second = Training(python, temporary)
    second.halfway()
    assert (first.folder, second.folder) == ("train-0123", "train-0123~2")
    errors = second.finish()
    assert (
        errors == f"process {first.process.pid} does the same in .; this one works apart from it\n"
    )
    assert first.finish() == ""
    assert first.losses() == second.losses() == {9: 0.1}
    assert [entry.run.status for entry in entries()] == ["FINISHED"] * 2
    assert not list(paths.states().iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("first_ends", [True, False])
def test_the_second_goes_on_after_a_kill(
    offline: Path, python: Python, temporary: Path, first_ends: bool
) -> None:
    first, second = Training(python, offline), Training(python, temporary)
    first.halfway()
    second.halfway()
    killed = next(one for one in (second, first) if one.folder != "train-0123")
    other = first if killed is second else second
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    if first_ends:
        other.finish()
    third = Training(python, temporary.with_name("tmp2"))  # workspaces come and go
    third.finish()
    if not first_ends:
        other.finish()
    assert third.losses() == {9: 0.1}
    assert [entry.run.status for entry in entries()] == ["FINISHED"] * 2
    assert not list(paths.states().iterdir())


def test_a_second_of_the_same_workspace_is_refused(offline: Path, python: Python) -> None:
    """It would write the same outputs."""
    first = Training(python, offline)
    first.halfway()
    second = Training(python, offline)
    _, errors = second.process.communicate("\n")
    assert f"process {first.process.pid} is at work here" in errors
    first.finish()
    assert [entry.run.status for entry in entries()] == ["FINISHED"]
