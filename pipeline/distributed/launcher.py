"""`train.launcher`: DVC's stage has torchrun or Slurm start the training's processes.

The stage waits for the launcher and takes it along: a signal to the stage ends the launcher, which
ends its processes, and so does the kernel when the stage is killed (Linux); only a script that runs
the launcher has to pass that on, by `exec`. What the processes write to the terminal, they write
themselves.

Rank 0 writes the stage's outputs, so it must run where DVC looks for them. The processes that this
launcher started carry `LAUNCHED` in their environment; those that a user started on another
machine do not, so ranks can tell whether the first is the right one.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from pipeline.distributed.world import LAUNCHED
from pipeline.errors import UserError
from pipeline.system.process import run_child
from pipeline.system.progress import say
from pipeline.system.text import quoted

STARTS_PYTHON = {"torchrun", "torch.distributed.run"}  # they take `-m MODULE` themselves


def run_launcher(launcher: str, module: str, options: Mapping[str, Path]) -> None:
    """Run `launcher` with `python -m module` and its options, in no shell, and wait for it.

    Raises:
        UserError: the program is not there; or it would start the launcher again.
        SystemExit: its status, where it or one of its processes failed.
    """
    if LAUNCHED in os.environ:
        raise UserError(
            f"train.launcher: {quoted(launcher)} started a process with no rank in its "
            "environment; name torchrun, or srun with two tasks or more, or set it to null"
        )
    command = shlex.split(launcher)
    if not STARTS_PYTHON.intersection(Path(word).name for word in command):
        command.append(sys.executable)
    command += ["-m", module, *(str(part) for option in options.items() for part in option)]
    try:
        status = run_child(command, {**os.environ, LAUNCHED: "1"})
    except OSError as error:
        raise UserError(
            f"train.launcher: {quoted(command[0])}: {error.strerror}; name a program on PATH"
        ) from None
    if status:
        why = f"{quoted(command[0])} ended with status {status}; the lines above say why"
        say(f"Error: train.launcher: {why}")
        raise SystemExit(status)
