from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.system.process import Process, Terminated, run_child, sigterm_raises
from tests.helpers.real_stage import start


def test_sigterm_raises_within_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def be_terminated() -> None:
        with sigterm_raises():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)  # the signal ends it

    with pytest.raises(Terminated) as raised:
        be_terminated()
    assert raised.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_may_enter_the_block() -> None:
    entered = []

    def enter() -> None:
        with sigterm_raises():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [True]


def test_who_is_alive() -> None:
    me = Process.current()
    assert me.is_alive() is True
    assert replace(me, started=me.started - 3600).is_alive() is False, "the number was used again"
    assert replace(me, host="elsewhere").is_alive() is None
    assert replace(me, space="another boot").is_alive() is None


def test_who_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert replace(Process.current(), pid=child.pid).is_alive() is False


def test_who_has_ended_unasked_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(child.pid).create_time()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert replace(Process.current(), pid=child.pid, started=started).is_alive() is False
    child.wait()


SLEEPS = """
import signal, sys, time
def end(number, frame):
    open("signalled", "w").write(str(number))
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
open("ready", "w").close()
time.sleep(100)
"""
RUNS = "import os, sys; from pipeline.system.process import run_child as run; run({!r}, os.environ)"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -2), (signal.SIGKILL, -9)]
)
@pytest.mark.parametrize("script", [None, 'exec "$@"', '"$@"\nexit'])
def test_a_child_ends_with_who_runs_it(
    tmp_path: Path, number: signal.Signals, status: int, script: str | None
) -> None:
    if number == signal.SIGKILL and script == '"$@"\nexit':
        pytest.skip("the kernel knows the script alone")
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    command = [sys.executable, "sleeps.py"]
    if script is not None:
        command = ["/bin/bash", "-c", script, "script", *command]
    process = start(tmp_path, sys.executable, "-c", RUNS.format(command))
    deadline = time.monotonic() + 30
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    *_, child = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == status
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()
    assert (tmp_path / "signalled").read_text() == str(int(signal.SIGTERM))


@pytest.mark.parametrize(("ending", "status"), [("sys.exit(7)", 7), ("os.abort()", 134)])
def test_a_childs_status_is_a_shells(ending: str, status: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert run_child([sys.executable, "-c", f"import os, sys; {ending}"], os.environ) == status
    assert signal.getsignal(signal.SIGTERM) is before
