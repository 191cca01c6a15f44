"""Checkpoints beside the training: a copy is taken between two steps and written by a thread.

The training waits for the copy alone. A checkpoint that falls due while the last is still being
written is skipped, and one that cannot be written (a full disk) is a warning: training goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.training.checkpoint import Cancelled, Checkpoint, CheckpointFolder, LoopState
from pipeline.training.snapshot import Snapshot, copied


class Checkpointer:
    """`with Checkpointer(folder, every=20, notify=print) as checkpoints: ...`

    A block that ends well needs its checkpoints no more: what is being written is given up. One
    that raises has the last one finished.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        notify: Callable[[str], None],
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            every: optimizer steps.
            notify: gets a line for each checkpoint that is damaged or cannot be written.
            before_commit: called by the thread before a checkpoint counts.
        """
        self._store = CheckpointFolder(folder)
        self._every = every
        self._notify = notify
        self._before_commit = before_commit
        self._thread: threading.Thread | None = None
        self._cancelled = False
        self._buffers: Any = None  # the optimizer's, used again and again
        self._problem: Exception | None = None
        self._last_message = ""

    def latest(
        self, check: Callable[[Checkpoint], None] = lambda checkpoint: None
    ) -> Checkpoint | None:
        """The newest checkpoint that is whole, and that `check` raises no UserError about."""
        return self._store.read_latest(self._notify, check)

    def is_due(self, step: int) -> bool:
        """Whether to save after this step."""
        return step % self._every == 0 and not self._is_writing()

    def save(
        self,
        *,
        weights: Snapshot,
        best: Snapshot,
        optimizer: dict[str, Any],
        record: LoopState,
    ) -> None:
        """Copy the optimizer's state and begin to write; the rest must not change again."""
        assert not self._is_writing(), "ask is_due first"
        self._report()
        self._buffers = copied(optimizer, self._buffers)
        checkpoint = Checkpoint(weights.step, weights, best, self._buffers, record)
        self._thread = threading.Thread(
            target=self._write, args=(checkpoint,), name="lossbook-checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._report()

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cancelled = error is None
        self.wait()

    def _is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _write(self, checkpoint: Checkpoint) -> None:
        try:
            self._store.write(
                checkpoint,
                before_commit=self._before_commit,
                is_cancelled=lambda: self._cancelled,
            )
            self._last_message = ""
        except Cancelled:
            pass
        except Exception as error:  # raised again, or reported, by the training thread
            self._problem = error
            error.add_note(f"while the checkpoint of step {checkpoint.step} was written")

    def _report(self) -> None:
        problem, self._problem = self._problem, None
        if problem is None:
            return
        if not isinstance(problem, OSError):
            raise problem
        message = (
            f"a checkpoint could not be written ({problem.strerror}); training goes on, and "
            "a kill would cost the steps since the last one that could"
        )
        if message != self._last_message:
            self._notify(message)
            self._last_message = message
