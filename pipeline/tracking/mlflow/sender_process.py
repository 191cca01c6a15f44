"""A run's sender in a process of its own, so that MLflow takes nothing from the stage.

To import MLflow and open a store takes two seconds and more of Python's lock. In a thread beside a
stage they cost more than themselves, for who waits for the lock waits for milliseconds at a time.

A line on the process's standard input, the time by which to finish, makes it send the rest, answer
with a line of JSON, and end. It ends too when the stage is gone, however that went: its input has
then come to its end, and on Linux the kernel kills it. It has a process group of its own, which a
terminal's Ctrl-C passes by: the stage gets it, and then has the rest sent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pipeline
from pipeline.system.process import end_with_parent
from pipeline.tracking import paths
from pipeline.tracking.lifecycle import reap

OFFLINE = "LOSSBOOK_OFFLINE"  # set: journals only, no store; `lossbook sync` sends them later
LIMIT = 60.0  # seconds to send the rest in
SLACK = 2.0  # seconds in which the answer must come, beyond the sender's own limit


def is_offline() -> bool:
    """Whether this process is to leave stores alone."""
    return bool(os.environ.get(OFFLINE))


class NoSender:
    """In the place of a sender where only journals are wanted."""

    run_id = None

    def start(self) -> None:
        with suppress(OSError):  # what cannot be read now is seen to by the next run
            reap()

    def finish(self, limit: float = LIMIT) -> None:
        pass

    def kill(self) -> None:
        pass

    def lacking(self) -> list[str]:
        return []


class SenderProcess:
    """Sends one journal until `finish` is called: a `Sender`, elsewhere.

    Attributes:
        run_id: the store's id for the run; known when it is finished.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_id: str | None = None
        self._lacking: list[str] = []

    def start(self) -> None:
        """Start the process, and do not wait for it."""
        here = str(Path(pipeline.__file__).parents[1])
        folders = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            process_group=0,
            text=True,
        )

    def finish(self, limit: float = LIMIT) -> None:
        """Have the rest sent, as `Sender.finish` does; afterwards the process is gone."""
        deadline = time.time() + limit
        try:
            output, _ = self._process.communicate(f"{deadline}\n", timeout=limit + SLACK)
            answer = json.loads(output)
            self.run_id, self._lacking = answer["run_id"], answer["lacking"]
        except (subprocess.TimeoutExpired, ValueError):  # stuck, or dead
            name = paths.store_name(paths.tracking_uri())
            self._lacking = [f"{name}: the process that sends there failed"]
        finally:
            self.kill()

    def kill(self) -> None:
        """End it, whatever it has sent; twice does no harm."""
        self._process.kill()
        self._process.wait()

    def lacking(self) -> list[str]:
        """As `Sender.lacking`."""
        return self._lacking


def main(folder: str, parent: str) -> None:
    """The process: a sender for the journal in `folder`, until the stage `parent` ends it."""
    end_with_parent(int(parent))
    answers, sys.stdout = sys.stdout, sys.stderr  # where nobody's print comes between

    # Here alone: it imports MLflow, which the stage must not.
    from pipeline.tracking.mlflow.sender import Sender

    sender = Sender(Path(folder))
    sender.start()
    if deadline := sys.stdin.readline():
        sender.finish(max(float(deadline) - time.time(), 0.0))
        answer = {"run_id": sender.run_id, "lacking": sender.lacking()}
        print(json.dumps(answer), file=answers, flush=True)
    os._exit(0)  # whatever still waits for a store


if __name__ == "__main__":
    main(*sys.argv[1:])
