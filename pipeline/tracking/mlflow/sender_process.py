"""A run's sender in a process of its own, so that MLflow takes nothing from the stage.

To import MLflow and open a store takes two seconds and more of Python's lock. In a thread beside a
stage they cost more than themselves, for who waits for the lock waits for milliseconds at a time.
In a process of the lowest priority they run while a core is idle. Where none ever is, which other
processes can bring about, the run ends with a sender of the stage's own priority.

The process writes a line to its standard output when it is awake, MLflow imported. A line on its
standard input, the time by which to finish, makes it send the rest, answer with a line of JSON,
and end. It ends too when the stage is gone, however that went: its input has then come to its end,
and on Linux the kernel kills it.

Sharp edge: Linux schedules by session first where it groups processes automatically, and priority
counts only inside a session. So the process stays in the stage's, in a group of its own, which a
terminal's Ctrl-C passes by: the stage gets it, and then has the rest sent.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pipeline
from pipeline.system.process import end_with_parent
from pipeline.tracking import paths
from pipeline.tracking.lifecycle import reap

OFFLINE = "LOSSBOOK_OFFLINE"  # set: journals only, no store; `lossbook sync` sends them later
LIMIT = 60.0  # seconds to send the rest in
LOWEST = 19  # of priorities, as `nice` counts
AWAKE = "awake"
STARVED = 4.0  # seconds to wake up in, when the stage has nothing left to do but wait for it
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

    def start(self, nice: int = LOWEST) -> None:
        """Start the process, and do not wait for it."""
        here = str(Path(pipeline.__file__).parents[1])
        folders = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.folder), str(os.getpid()), str(nice)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            process_group=0,
            text=True,
        )

    def finish(self, limit: float = LIMIT) -> None:
        """Have the rest sent, as `Sender.finish` does; afterwards the process is gone."""
        deadline = time.time() + limit
        if not self._answers_within(min(STARVED, limit)):
            self._end()
            self.start(nice=0)
        left = max(deadline - time.time(), 0.0)
        try:
            output, _ = self._process.communicate(f"{deadline}\n", timeout=left + SLACK)
            (line,) = (line for line in output.splitlines() if line != AWAKE)
            answer = json.loads(line)
            self.run_id, self._lacking = answer["run_id"], answer["lacking"]
        except (subprocess.TimeoutExpired, ValueError):  # stuck, or dead
            name = paths.store_name(paths.tracking_uri())
            self._lacking = [f"{name}: the process that sends there failed"]
        finally:
            self._end()

    def _answers_within(self, seconds: float) -> bool:
        """Whether there is something to read by then, be it the end of a process that is dead."""
        output = self._process.stdout
        assert output is not None, "it is a pipe"
        return bool(select.select([output], [], [], seconds)[0])

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def lacking(self) -> list[str]:
        """As `Sender.lacking`."""
        return self._lacking


def main(folder: str, parent: str, nice: str) -> None:
    """The process: a sender for the journal in `folder`, until the stage `parent` ends it."""
    end_with_parent(int(parent))
    os.nice(int(nice))
    answers, sys.stdout = sys.stdout, sys.stderr  # where nobody's print comes between

    # Here alone, at this priority: it imports MLflow, which the stage must not.
    from pipeline.tracking.mlflow.sender import Sender

    sender = Sender(Path(folder))
    sender.start()

    def answer(line: str) -> None:
        print(line, file=answers, flush=True)

    def answer_when_awake() -> None:
        sender.awake.wait()
        answer(AWAKE)

    threading.Thread(target=answer_when_awake, daemon=True).start()
    if deadline := sys.stdin.readline():
        sender.finish(max(float(deadline) - time.time(), 0.0))
        answer(json.dumps({"run_id": sender.run_id, "lacking": sender.lacking()}))
    os._exit(0)  # whatever still waits for a store


if __name__ == "__main__":
    main(*sys.argv[1:])
