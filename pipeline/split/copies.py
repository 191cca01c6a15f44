"""Which documents of a split are near-copies of training documents.

What that is, `pipeline.corpus.near_copies` says. Each document leaves 264 bytes in a file: its
tokens and its digest. Those of validation or test are held, at most `HELD` at a time, and those of
training streamed past them by threads; memory does not grow with the corpus.

Sharp edge: where a band of many documents' digests is the same, as of a letterhead, the first
`CROWD` of them are compared. Near-copies share many bands, and few are such.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.corpus.near_copies import BANDS, NOTHING, PERMUTATIONS, SIMILAR, Digests, bands
from pipeline.corpus.workers import Workers
from pipeline.tokens.ngrams import mixed

RECORD = np.dtype([("tokens", np.int64), ("bands", np.uint64, (BANDS,))])
HELD = 1 << 18  # documents of validation or test at once: 170 MB, with their order
PART = 1 << 12  # training documents that a thread is given
CROWD = 32

Records = npt.NDArray[np.void]
Bands = npt.NDArray[np.uint64]


class Rows(NamedTuple):
    """Documents, or parts of them, in order: tokens, digests, and whether a document ends."""

    tokens: npt.NDArray[np.int64]
    digests: Digests
    ends: npt.NDArray[np.bool_]


class Documents:
    """The file of a split's documents, each written when its last part has come."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        digests = np.zeros((0, PERMUTATIONS), np.uint32)
        self._open = Rows(np.zeros(0, np.int64), digests, np.zeros(0, bool))  # the unfinished one

    def add(self, rows: Rows) -> None:
        ends = np.concatenate([self._open.ends, rows.ends])
        if not len(ends):
            return
        starts = np.flatnonzero(np.append(True, ends[:-1]))
        tokens = np.add.reduceat(np.concatenate([self._open.tokens, rows.tokens]), starts)
        digests = np.minimum.reduceat(np.concatenate([self._open.digests, rows.digests]), starts)
        done = len(starts) - (not ends[-1])
        self._open = Rows(tokens[done:], digests[done:], np.zeros(len(starts) - done, bool))
        records = np.empty(done, RECORD)
        records["tokens"], records["bands"] = tokens[:done], bands(digests[:done])
        self._file.write(records[(digests[:done] != NOTHING).any(axis=1)].tobytes())

    def read(self, records: int) -> Iterator[Records]:
        """All of them from the start, so many at a time."""
        self._file.seek(0)
        while content := self._file.read(records * RECORD.itemsize):
            yield np.frombuffer(content, RECORD)


def near_copies(train: Documents, other: Documents, workers: Workers) -> tuple[int, int]:
    """How many of `other`'s documents are near-copies of one of `train`'s, and their tokens."""
    documents = tokens = 0
    for records in other.read(HELD):
        held = Held(records["bands"])
        for _ in workers.in_order(held.look_up, (part["bands"] for part in train.read(PART))):
            pass
        documents += int(held.found.sum())
        tokens += int(records["tokens"][held.found].sum())
    return documents, tokens


class Held:
    """Documents by their bands, and which of them were found to be near-copies.

    Those of equal digests are looked up as one.
    """

    def __init__(self, keys: Bands) -> None:
        numbers = np.arange(BANDS, dtype=np.uint64)
        whole = mixed(keys + mixed(numbers)).sum(axis=1)  # a hash of each digest
        _, first, self._same = np.unique(whole, return_index=True, return_inverse=True)
        self._keys = keys[first]
        self._found = np.zeros(len(first), bool)
        self._order = np.argsort(self._keys.T, kind="stable").astype(np.int32)  # (BANDS, documents)
        self._sorted = np.take_along_axis(self._keys.T, self._order, axis=1)

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        return self._found[self._same]

    def look_up(self, keys: Bands) -> None:
        """Compare training documents with the held ones that share a band with them."""
        for column, ordered, order in zip(keys.T, self._sorted, self._order, strict=True):
            start = np.searchsorted(ordered, column, "left")
            stop = np.searchsorted(ordered, column, "right")
            for entry in range(CROWD):
                here = np.flatnonzero(start + entry < stop)
                if not len(here):
                    break
                there = order[start[here] + entry]
                equal = keys[here].view(np.uint16) == self._keys[there].view(np.uint16)
                self._found[there[equal.mean(axis=1) >= SIMILAR]] = True
