"""The sender in a process of its own: what it spares the stage, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.tracking import paths
from pipeline.tracking.journal import read_run
from pipeline.tracking.lifecycle import take
from pipeline.tracking.mlflow import sender_process
from pipeline.tracking.mlflow.sender_process import SenderProcess
from pipeline.tracking.mlflow.store import Store
from pipeline.tracking.mlflow.sync import gather, synced
from pipeline.tracking.open_run import Run

HEADER = {
    "run": "0123456789abcdef",
    "stage": "train",
    "experiment": "e",
    "name": "train",
    "parent": None,
    "state": None,
}

STAGE = """
import sys, time
from pathlib import Path
from pipeline.tracking.run import start_run

with start_run("train", experiment="e", record=Path("record.json")) as run:
    run.log_metrics({"loss": 1.0}, step=0)
    print("at work", flush=True)
    time.sleep(SECONDS)
print("mlflow" in sys.modules)
"""


@contextmanager
def begun() -> Iterator[SenderProcess]:
    """A run with one metric, ended with the block, and its sender."""
    folder = paths.states() / "train-0123"
    with take(folder):
        run = Run(folder, HEADER, {}, {})
        run.log_metrics({"loss": 1.0}, step=0)
        sender = SenderProcess(folder)
        sender.start()
        yield sender
        run.journal.append({"end": "FINISHED"})
        run.journal.close()


def children(process: psutil.Process) -> list[psutil.Process]:
    """Those that live."""
    return [c for c in process.children() if c.status() != psutil.STATUS_ZOMBIE]


def test_a_stage_never_imports_mlflow(repo: Path, store: Store, python: Callable[..., Any]) -> None:
    process = python(STAGE.replace("SECONDS", "0"))
    output, errors = process.communicate()
    assert (output.splitlines(), errors) == (["at work", "False"], "")
    record = json.loads(Path("record.json").read_text())
    found = store.client.get_run(record["run_id"])
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 1.0}


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="only Linux tells a child")
def test_it_dies_with_a_stage_that_is_killed(repo: Path, python: Callable[..., Any]) -> None:
    process = python(STAGE.replace("SECONDS", "600"))
    process.stdout.readline()
    (sender,) = children(psutil.Process(process.pid))
    process.kill()
    sender.wait(timeout=5)


def test_ctrl_c_in_a_terminal_leaves_it_the_time_to_send_the_end(
    repo: Path, store: Store, python: Callable[..., Any]
) -> None:
    # With time enough for a sender that other tests leave no processor.
    script = "import os; os.setpgid(0, 0)\n"
    script += "from pipeline.tracking import run; run.KILLED_LIMIT = 60.0\n"
    process = python(script + STAGE.replace("SECONDS", "600"))
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does to all that runs in its foreground
    process.communicate()
    (kept,) = paths.journals().iterdir()
    run_state = read_run(kept)
    assert run_state is not None
    found = store.find_run(run_state.key)
    assert found is not None
    assert found.info.status == run_state.status == "KILLED"


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_dies_or_hangs_costs_a_warning(
    repo: Path, ending: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_process, "SLACK", 0.1)
    others = set(children(psutil.Process()))
    with begun() as sender:
        (process,) = set(children(psutil.Process())) - others
        process.send_signal(ending)
        start = time.monotonic()
        sender.finish(limit=0.2)
        assert time.monotonic() - start < 2
    assert sender.lacking() == ["mlflow.db: the process that sends there failed"]
    assert set(children(psutil.Process())) <= others
    (done,) = synced(gather(Path("journals")))
    assert done.outcome in ("sent", "there")
