"""A process that has imported everything once, and forks for each command, in milliseconds.

    python -m tests.helpers.zygote SOCKET MODULE...

It reads a request in a line of JSON, runs it in a child of its own (working folder, environment,
memory, output, time, all bounded), and answers in a line. The child runs the real Click commands
as a shell would, to the exit status; what it does to itself, a crash included, hurts nobody.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from pipeline.commands.console import Command

ROOT = Path(__file__).parents[2]
COMMON = (
    "torch",
    "pandas",
    "pyarrow.parquet",
    "pipeline.identify",
    "pipeline.corpus.stage",
    "pipeline.split.stage",
    "pipeline.params",
    "pipeline.weights",
    "pipeline.generation.decode",
    "pipeline.commands.generate",
    "pipeline.commands.export",
    "pipeline.commands.tracking",
    "pipeline.commands.sweep",
)
MLFLOW = ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "pipeline.tracking.mlflow.sync")
STAGES = (
    "pipeline.training.stage",
    "pipeline.evaluation.stage",
    "pipeline.evaluation.size",
    "pipeline.sampling.stage",
    "pipeline.comparison.stage",
    "pipeline.gpt2.stage",
    "matplotlib.pyplot",
    "torch._dynamo",  # the first optimizer imports it
)
GIB = 1 << 30
CLONE_NEWNS = 0x20000  # linux/sched.h
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18  # linux/mount.h


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: the exit status; minus the signal's number where one ended it.
        seconds: how long it took.
        late: it was killed at its limit.
        peak: bytes of memory at most, beyond what it began with.
    """

    status: int
    seconds: float
    late: bool
    peak: int
    out: str
    err: str


class Zygote:
    """Runs commands, one at a time."""

    def __init__(self, *modules: str) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONUTF8": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # what a full disk cuts short would stay
        }
        command = [sys.executable, "-m", "tests.helpers.zygote", str(theirs.fileno()), *modules]
        self._process = subprocess.Popen(
            command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        self._socket = ours
        self._lines = ours.makefile("r", encoding="ascii")

    def run(
        self,
        argv: Sequence[str],
        folder: Path,
        logs: Path,
        *,
        environment: Mapping[str, str] | None = None,
        seconds: float = 20.0,
        memory: int = 2 * GIB,
        limits: Mapping[str, int] | None = None,
        mounts: Mapping[str, str] | None = None,
        stdin: Path | None = None,
    ) -> Ended:
        """Run a command in `folder`.

        Args:
            argv: `lossbook ARGUMENTS`, `stages.NAME ARGUMENTS`, or `MODULE:FUNCTION ARGUMENTS` for
                a function that takes them and behaves as a command would.
            logs: a folder for its output.
            memory: bytes of address space that it may take beyond what it begins with.
            limits: of `resource`, by name, such as `RLIMIT_FSIZE`.
            mounts: what is mounted over a folder, for this command alone: `ro`, itself to be read
                only, or the size of a disk, such as `64k`.
        """
        logs.mkdir(parents=True, exist_ok=True)
        request = {
            "argv": [os.fsencode(a).decode("latin-1") for a in argv],
            "folder": os.fsencode(folder).decode("latin-1"),
            "out": str(logs / "out"),
            "err": str(logs / "err"),
            "environment": dict(environment or {}),
            "seconds": seconds,
            "memory": memory,
            "limits": dict(limits or {}),
            "mounts": dict(mounts or {}),
            "stdin": str(stdin or os.devnull),
        }
        self._socket.sendall(json.dumps(request).encode("ascii") + b"\n")
        answer = json.loads(self._lines.readline())
        out, err = (
            (logs / name).read_bytes()[-1_000_000:].decode("utf-8", "backslashreplace")
            for name in ("out", "err")
        )
        return Ended(**answer, out=out, err=err)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()
        self._process.kill()  # it has nothing to finish
        self._process.wait()


def main(descriptor: str, *modules: str) -> None:
    for module in modules:
        import_module(module)
    _warm_up(modules)
    with socket.socket(fileno=int(descriptor)) as connection:
        connection.set_inheritable(False)
        for line in connection.makefile("r", encoding="ascii"):
            answer = _serve(json.loads(line), connection)
            connection.sendall(json.dumps(answer).encode("ascii") + b"\n")


def _warm_up(modules: Sequence[str]) -> None:
    if "torch" in modules:
        import torch

        torch.set_num_threads(1)  # no pool of threads, which no fork would take along
    from pipeline.tokens.tokenizer import encode

    encode("warm")
    if "matplotlib.pyplot" in modules:  # the first figure looks for fonts
        import io

        from matplotlib import pyplot

        figure, axes = pyplot.subplots()
        axes.plot([1, 2], label="warm")
        axes.legend()
        figure.savefig(io.BytesIO(), format="png")
        pyplot.close(figure)


def _serve(request: dict[str, Any], connection: socket.socket) -> dict[str, Any]:
    began = time.monotonic()
    before = _resident()
    pipes = [os.pipe(), os.pipe()]  # not files: those would count among the child's own
    child = os.fork()
    if child == 0:
        connection.close()
        _be(request, [write for _, write in pipes])
    for read, write in pipes:
        os.close(write)
        os.set_blocking(read, False)
    said = [bytearray(), bytearray()]
    late = ended = False
    clock = _Clock(child, request["seconds"])
    while not ended:
        late = late or clock.is_over()
        if late:
            os.kill(child, signal.SIGKILL)
        _drain(pipes, said, wait=0.05)
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # with what it left behind
    _, status, usage = os.wait4(child, 0)
    _drain(pipes, said, wait=0)
    for read, _ in pipes:
        os.close(read)
    for name, data in zip(("out", "err"), said, strict=True):
        Path(request[name]).write_bytes(data)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - began, 3),
        "late": late,
        "peak": max(0, usage.ru_maxrss * 1024 - before),
    }


class _Clock:
    """When a command has had its time: as it counts for itself, for the machine may be busy."""

    def __init__(self, group: int, seconds: float) -> None:
        self._group, self._seconds = group, seconds
        self._looked = self._began = time.monotonic()
        self._used = 0.0

    def is_over(self) -> bool:
        """It has worked as long, or it has waited as long and does nothing now."""
        now = time.monotonic()
        if now - self._began < self._seconds or now - self._looked < 3.0:
            return False
        used = _worked(self._group)
        idle = used - self._used < 0.01 and self._looked != self._began
        self._looked, self._used = now, used
        return idle or used > self._seconds or now - self._began > 15 * self._seconds


def _worked(group: int) -> float:
    """The seconds of processor that the processes of a group have used."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _drain(pipes: Sequence[tuple[int, int]], said: Sequence[bytearray], wait: float) -> None:
    """Read what is there; when nothing is, wait as long as that."""
    reads = [read for read, _ in pipes]
    ready, _, _ = select.select(reads, [], [], wait)
    if len(ready) == 0 or not sum(map(_read, reads, said)):
        time.sleep(min(wait, 0.005))


def _read(pipe: int, said: bytearray) -> bool:
    try:
        data = os.read(pipe, 1 << 20)
    except BlockingIOError:
        return False
    said += data
    del said[:-1_000_000]
    return bool(data)


def _be(request: dict[str, Any], outputs: Sequence[int]) -> None:
    """The child: from here on it is the command."""
    status = 70
    try:
        os.setsid()
        for number, pipe in enumerate((os.open(request["stdin"], os.O_RDONLY), *outputs)):
            os.dup2(pipe, number)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, "utf-8", "backslashreplace", closefd=False)
        os.chdir(request["folder"].encode("latin-1"))
        os.environ.update(request["environment"])
        _mount(request["mounts"])
        for name, value in request["limits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        limit = taken + request["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        argv = [os.fsdecode(a.encode("latin-1")) for a in request["argv"]]
        status = _call(argv)
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _mount(mounts: Mapping[str, str]) -> None:
    """In a namespace of its own, which goes with the process."""
    if not mounts:
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    checked(libc.unshare(CLONE_NEWNS))
    checked(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
    for place, how in mounts.items():
        path = os.fsencode(os.path.realpath(place))
        if how != "ro":
            checked(libc.mount(b"none", path, b"tmpfs", 0, f"size={how}".encode()))
            continue
        checked(libc.mount(path, path, None, MS_BIND | MS_REC, None))
        checked(libc.mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY, None))
    os.chdir(Path.cwd())  # the folder may have been mounted over


def may_mount() -> bool:
    """Whether this process may give a child mounts of its own (Linux, as root)."""
    child = os.fork()
    if child == 0:
        os._exit(int(ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0))
    return os.waitpid(child, 0)[1] == 0


def _call(argv: list[str]) -> int:
    name, *arguments = argv
    sys.argv = [name, *arguments]
    try:
        if ":" in name:
            module, _, function = name.partition(":")
            command: click.Command = _as_command(getattr(import_module(module), function))
            command.main([], prog_name=function)
        elif name == "lossbook":
            import_module("pipeline.cli").main(arguments, prog_name=name)
        else:
            import_module(name).main(arguments, prog_name=name)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _as_command(function: Any) -> click.Command:
    """A function of `sys.argv[1:]`, its errors reported as each command's are."""
    return Command(name="function", callback=lambda: function(*sys.argv[1:]))


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main(*sys.argv[1:])
