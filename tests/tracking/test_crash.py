"""A process that trains, checkpoints and journals, killed at any moment and started again."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking import paths
from pipeline.tracking.journal import JOURNAL, RunState, read_events, read_run
from pipeline.tracking.mlflow.store import Store

STEPS = 200
# An interval timer's signal ends a process as `kill -9` does: at once, unasked, wherever it is.
TRAINING = f"""
import os, signal, time
from pathlib import Path
from pipeline.system.files import write_text
from pipeline.tracking import paths
from pipeline.tracking.run import start_run

state = paths.state_folder("train", "0123")
with start_run("train", experiment="e", state=state, journal=Path("journals/train")) as run:
    checkpoint = state / "checkpoint"
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    signal.setitimer(signal.ITIMER_REAL, float(os.environ["DIE_AFTER"]))
    for step in range(first, {STEPS}):
        run.log_metrics({{"loss": 1 / (1 + step), "rate": step * 0.5}}, step=step)
        time.sleep(0.002)
        if step % 10 == 9:
            run.sync()
            write_text(checkpoint, str(step + 1))
"""
EXPECTED = [(step, {"loss": 1 / (1 + step), "rate": step * 0.5}) for step in range(STEPS)]

Python = Callable[..., "subprocess.Popen[str]"]


def journalled(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """The journal's points, in the order of its lines."""
    points = [(e["s"], e["m"]) for e in read_events(folder / JOURNAL) if "m" in e]
    return [(step, metrics) for step, metrics in points if "loss" in metrics]


def run_of(folder: Path) -> RunState:
    run_state = read_run(folder)
    assert run_state is not None
    return run_state


def kill_until_done(python: Python, seed: int, kills: int) -> int:
    """Kill the training at random moments until it ends by itself; how often that took."""
    variables = {"DVC_STAGE": "train"}  # as if under DVC, which never comes to take the outputs
    moments = random.Random(seed)
    for count in range(kills):
        process = python(TRAINING, DIE_AFTER=str(moments.uniform(0.001, 0.25)), **variables)
        output, errors = process.communicate()
        if process.returncode == 0:
            return count
        assert process.returncode == -signal.SIGALRM, output + errors
    process = python(TRAINING, DIE_AFTER="0", **variables)
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    return kills


def test_kills_leave_one_history_without_gaps_or_repetitions(offline: Path, python: Python) -> None:
    assert kill_until_done(python, seed=1, kills=5) >= 2
    (kept,) = paths.journals().iterdir()
    assert journalled(kept) == EXPECTED
    assert journalled(Path("journals/train")) == EXPECTED
    assert run_of(kept).status == "FINISHED"
    assert not paths.state_folder("train", "0123").exists()


def test_a_kill_between_archive_and_exit_makes_no_second_run(offline: Path, python: Python) -> None:
    """In the eyes of whoever runs it, it failed, and is run again."""
    process = python(f"{TRAINING}\nos.kill(os.getpid(), 9)", DIE_AFTER="0")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (kept,) = paths.journals().iterdir()
    first = run_of(kept)
    assert first.status == "FINISHED"
    process = python(TRAINING, DIE_AFTER="0")
    assert process.wait() == 0
    (kept,) = paths.journals().iterdir()
    assert run_of(kept).key == first.key
    assert journalled(kept) == EXPECTED


@pytest.mark.parametrize("taken", [True, False])
def test_a_run_whose_outputs_dvc_never_took_goes_on(
    offline: Path, python: Python, taken: bool
) -> None:
    """DVC was killed after its stage had exited well."""
    assert python(TRAINING, DIE_AFTER="0", DVC_STAGE="train").wait() == 0
    (kept,) = paths.journals().iterdir()
    cached = paths.dvc_cached(hashlib.md5((kept / JOURNAL).read_bytes()).hexdigest())
    if taken:
        cached.parent.mkdir(parents=True)
        cached.touch()
    assert python(TRAINING, DIE_AFTER="0", DVC_STAGE="train").wait() == 0
    assert len(list(paths.journals().iterdir())) == (2 if taken else 1)


def test_a_training_that_is_forced_again_is_another_run(offline: Path, python: Python) -> None:
    for _ in range(2):
        assert python(TRAINING, DIE_AFTER="0").wait() == 0
    assert len(list(paths.journals().iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
def test_fifty_kills(offline: Path, python: Python, seed: int) -> None:
    kill_until_done(python, seed, kills=random.Random(seed).randint(1, 6))
    (kept,) = paths.journals().iterdir()
    assert journalled(kept) == EXPECTED


def test_mlflow_has_the_same_one_history(
    repo: Path, python: Python, store: Store, snapshot_of: Callable[..., dict[str, Any]]
) -> None:
    kill_until_done(python, seed=2, kills=3)
    (kept,) = paths.journals().iterdir()
    assert journalled(kept) == EXPECTED
    ((key, found),) = snapshot_of(store).items()
    assert key == run_of(kept).key
    assert found["status"] == "FINISHED"
    points = found["metrics"]["loss"]
    assert [(step, value) for step, _, value in points] == [
        (step, repr(metrics["loss"])) for step, metrics in EXPECTED
    ]


SLEEPING = """
import time
from pathlib import Path
from pipeline.tracking.run import start_run

with start_run("train", experiment="e", state=STATE) as run:
    run.log_metrics({"loss": 1.0}, step=7)
    print("at work", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_is_killed(
    offline: Path, python: Python, number: signal.Signals
) -> None:
    process = python(SLEEPING.replace("STATE", "None"))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    assert process.wait() == {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}[number]
    (kept,) = paths.journals().iterdir()
    assert run_of(kept).status == "KILLED"


PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {program!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="only Linux tells a child")
def test_a_stage_dies_with_the_dvc_that_started_it(offline: Path, python: Python) -> None:
    program = SLEEPING.replace("STATE", "None")
    parent = python(PARENT.format(program=program), DVC_STAGE="train")
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    while Path(f"/proc/{child}").exists() and "Z" not in state_of(child):
        time.sleep(0.01)
    (kept,) = paths.journals().iterdir()
    assert run_of(kept).status == "KILLED"


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"
