"""Which process this is, whether others are alive, and ending with the process that started it.

DVC that is killed leaves its stage running as an orphan, which a second `dvc repro` would then
race. `die_with_parent` prevents that on Linux, where the kernel can signal a child when its parent
is gone; elsewhere it does nothing. `end_with_parent` and `run_child` do the same for the processes
that a stage starts itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Terminated(SystemExit):
    """SIGTERM arrived; `finally` blocks run, and the exit status is the shell's 128 + 15."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@dataclass(frozen=True)
class Process:
    """A process of some host, distinct from later ones that got the same number.

    Attributes:
        host: the host's name.
        space: where its number means something: this boot of the kernel, this PID namespace.
        pid: its number.
        started: seconds since the epoch.
    """

    host: str
    space: str
    pid: int
    started: float

    @classmethod
    def current(cls) -> Process:
        pid = os.getpid()
        return cls(socket.gethostname(), _space(), pid, psutil.Process(pid).create_time())

    def is_alive(self) -> bool | None:
        """None where that is unknown here: of another host, another boot, another container."""
        if (self.host, self.space) != (socket.gethostname(), _space()):
            return None
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False  # it has ended, and its parent has not asked for the status yet
            # create_time is derived from the clock, which may have been set since
            return abs(process.create_time() - self.started) < 2.0
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True


def _space() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return sys.platform


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the process that started this one is gone (Linux).

    Only a stage that DVC started asks: one started by hand may outlive its shell.
    """
    if "DVC_STAGE" in os.environ:
        _ask_for(signal.SIGTERM)


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent`, which started it, is gone (Linux)."""
    _ask_for(signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before the kernel could be asked
        os.kill(os.getpid(), signal.SIGKILL)


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a program to its end; its exit status, as a shell has it: 128 + N of signal N.

    It has a process group of its own, so that a terminal's Ctrl-C reaches it once. The group, a
    script and what it runs, gets SIGTERM when this process does, or Ctrl-C; the program alone when
    this process is gone (Linux). It is waited for.

    Raises:
        OSError: there is no such program.
    """
    die_with_parent()
    with sigterm_raises():
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=partial(_ask_for, signal.SIGTERM),  # noqa: PLW1509 (no thread runs yet)
        )
        try:
            status = process.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    return status if status >= 0 else 128 - status


def _ask_for(number: signal.Signals) -> None:
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within the block, SIGTERM raises `Terminated` in the main thread.

    In any other thread, where Python lets nobody set handlers, the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
