"""Checkpoints beside the training: a copy is taken between two steps and written by a thread.

The training waits for the copy alone, and on CUDA not even for that. A checkpoint that falls due
while the last is still being written is skipped, and one that cannot be written (a full disk) is a
warning: training goes on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType

from pipeline.distributed.notes import Notes
from pipeline.distributed.shards import WHOLE, Shard
from pipeline.distributed.world import World
from pipeline.training.checkpoint import Cancelled, Checkpoint, CheckpointFolder, Stored


class Checkpointer:
    """`with Checkpointer(folder, notify=print) as checkpoints: ...`

    A block that ends well needs its checkpoints no more: what is being written is given up. One
    that raises has the last one finished, if other ranks have written their shards of it.

    Attributes:
        writes: whether this process does; else it only reads.
    """

    def __init__(
        self,
        folder: Path,
        *,
        notify: Callable[[str], None],
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            notify: gets a line for each checkpoint that is damaged or cannot be written.
            before_commit: called by the thread before a checkpoint counts.
        """
        self.store = CheckpointFolder(folder)
        self.notify = notify
        self._before_commit = before_commit
        self._thread: threading.Thread | None = None
        self._cancelled = self._over = False
        self.writes = True
        self._problem: Exception | None = None
        self._last_message = ""

    def share(self, shard: Shard, *, writes: bool) -> None:
        """From now on read, and perhaps write, one shard of checkpoints; other ranks do theirs."""
        self.store = CheckpointFolder(self.store.folder, shard, Notes(*shard))
        self.writes = writes

    def latest(self, check: Callable[[Stored], None] = lambda stored: None) -> Stored | None:
        """The newest checkpoint that is whole, and that `check` raises no UserError about."""
        return self.store.read_latest(self.notify, check)

    def is_writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def save(self, checkpoint: Checkpoint, when_copied: Callable[[], None] = lambda: None) -> None:
        """Begin to write a checkpoint.

        Args:
            when_copied: waits until its tensors are as they should be; they must not change again
                until it is written.
        """
        assert not self.is_writing(), "ask first"
        self._report()
        self._thread = threading.Thread(
            target=self._write, args=(checkpoint, when_copied), name="lossbook-checkpoint"
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
        self._cancelled, self._over = error is None, True
        self.wait()

    def _write(self, checkpoint: Checkpoint, when_copied: Callable[[], None]) -> None:
        try:
            when_copied()
            self.store.write(
                checkpoint,
                before_commit=self._before_commit,
                is_cancelled=lambda: self._cancelled,
                is_over=lambda: self._over,
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
            self.notify(message)
            self._last_message = message


def shared(
    checkpoints: Checkpointer | None, world: World, shard: Shard
) -> tuple[Shard, Checkpointer | None]:
    """What this rank reads and writes of checkpoints, and with what. A collective.

    Its shard, where the model is sharded and every rank sees the folder of rank 0's `checkpoints`;
    else rank 0 reads and writes all.
    """
    if shard.of == 1:
        return WHOLE, checkpoints
    with checkpoints.store.token() if checkpoints is not None else nullcontext() as token:
        found = world.broadcast(token)
        sees = found is not None and os.access(found, os.F_OK)
        missing = world.any(not sees)
    if missing:
        if checkpoints is not None:
            checkpoints.notify(
                f"train.sharding: not every process can use {checkpoints.store.folder}, so rank 0 "
                "gathers each checkpoint; on a file system that all machines share, each writes a "
                "shard"
            )
        return WHOLE, checkpoints
    assert found is not None
    mine = checkpoints or Checkpointer(found.parent, notify=lambda line: None)
    mine.share(shard, writes=world.rank < shard.of)  # of several replicas the first
    return shard, mine
