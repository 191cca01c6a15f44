"""A command ends with whoever holds its input, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.system import while_held

HOLDER = f"""
import signal, subprocess, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has the tests ignore
held = subprocess.Popen(
    [sys.executable, "-m", "{while_held.__name__}", sys.executable, "-c", sys.argv[1]],
    stdin=subprocess.PIPE,
    start_new_session=True,
)
time.sleep(600)
"""
# A server and its worker, which both print their number.
SERVER = """
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), worker.pid, flush=True)
time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_it_ends_with_its_holder(number: signal.Signals) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, SERVER],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout is not None
    pids = [int(pid) for pid in holder.stdout.readline().split()]
    os.killpg(holder.pid, number)  # as a terminal does
    holder.wait()
    deadline = time.monotonic() + 60
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("program", "status"),
    [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 128 + 9)],
)
def test_its_status_is_the_commands(program: str, status: int) -> None:
    command = [sys.executable, "-m", while_held.__name__, sys.executable, "-c", program]
    held = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert held.wait() == status
