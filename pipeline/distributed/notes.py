"""Notes that threads of every rank leave for rank 0, in the key-value store of the ranks.

Not a collective: a thread that is late, or gone, keeps nobody waiting but who wants its note.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import _get_default_store

POLL = 0.05  # seconds


class Notes:
    """Of the ranks from 0 to `of` - 1, this one being rank `number`."""

    def __init__(self, number: int, of: int) -> None:
        self._number, self._of = number, of
        self._store = PrefixStore("notes", _get_default_store())

    def leave(self, topic: str, text: str) -> None:
        """Leave this rank's note on a topic, one at most."""
        self._store.set(f"{topic}/{self._number}", text)

    def collect(self, topic: str, is_over: Callable[[], bool]) -> list[str] | None:
        """Every other rank's note on the topic; None where they are not there once it `is_over`."""
        keys = [f"{topic}/{number}" for number in range(self._of) if number != self._number]
        try:
            while True:
                last = is_over()
                if not keys or self._store.check(keys):
                    found = [self._store.get(key).decode() for key in keys]
                    for key in keys:
                        self._store.delete_key(key)
                    return found
                if last:
                    return None
                time.sleep(POLL)
        except RuntimeError:  # the store is gone, and with it the ranks
            return None
