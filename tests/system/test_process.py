from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from pipeline.system.process import Process, Terminated, sigterm_raises


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
