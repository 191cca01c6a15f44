"""Which of a split's tokens stand in the training text too, in runs of `NGRAM` tokens or more.

A token counts where one of the runs of `NGRAM` tokens that hold it stands in training; no run goes
on past the end of a document. The hashes of the split's runs are held, at most `HELD` at a time,
and the training tokens streamed past them by threads; memory grows with neither.

A run counts as found where its hash of 64 bits is: with 10^10 training and 10^8 validation tokens,
0.05 runs are expected to be taken for others'.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.corpus.workers import Workers
from pipeline.system.progress import Advance
from pipeline.tokens.ngrams import NGRAM, Hashes, hash_ngrams
from pipeline.tokens.tokenizer import END_OF_TEXT
from pipeline.tokens.windows import Tokens

HELD = 1 << 25  # runs whose hashes are held at once: 256 MB
PART = 1 << 22  # training tokens that a thread is given
CHUNK = 1 << 16  # tokens whose hashes fit a processor's cache
SLOTS = 8  # of the table for each hash, so that few are taken by another's

Flags = npt.NDArray[np.bool_]


class Held:
    """Sorted hashes of runs, and which of them were seen in training."""

    def __init__(self, hashes: Hashes) -> None:
        hashes.sort()
        self.hashes = hashes[np.diff(hashes, prepend=~hashes[:1]) != 0]
        self.seen = np.zeros(len(self.hashes), bool)
        bits = max((SLOTS * len(self.hashes)).bit_length(), 1)
        self._shift = np.uint64(64 - min(bits, 28))
        self._table = np.zeros(1 << min(bits, 28), bool)
        self._table[self.hashes >> self._shift] = True

    def find(self, hashes: Hashes) -> npt.NDArray[np.int64]:
        """The places of those hashes that are held."""
        hashes = hashes[self._table[hashes >> self._shift]]
        hashes.sort()  # neighbours are then looked up in one cache line
        places: npt.NDArray[np.int64] = np.searchsorted(self.hashes, hashes)
        places[places == len(self.hashes)] = 0
        places = places[self.hashes[places] == hashes]
        return places

    def look_up(self, start: int, train: Tokens) -> int:
        """Mark what a part of training holds; returns its tokens."""
        stop = min(start + PART, len(train))
        for place in range(start, stop, CHUNK):
            self.seen[self.find(_hashes(train, place, min(place + CHUNK, stop)))] = True
        return stop - start


def mark_shared(
    train: Tokens,
    other: Tokens,
    path: Path,
    workers: Workers,
    progress: Advance = lambda tokens: None,
) -> int:
    """Write the mask of `other`'s tokens, a byte each; return how many are shared.

    Args:
        workers: threads of this process.
        progress: gets the training tokens that were streamed.
    """
    mask = np.memmap(path, np.uint8, "w+", shape=(len(other),))
    for start in range(0, len(other), HELD):
        stop = min(start + HELD, len(other))
        hashes = [_within(other, a, min(a + CHUNK, stop)) for a in range(start, stop, CHUNK)]
        held = Held(np.concatenate([found[whole] for found, whole in hashes]))
        if not len(held.hashes):
            continue
        del hashes
        for tokens in workers.in_order(
            partial(held.look_up, train=train), range(0, len(train), PART)
        ):
            progress(tokens)
        for place in range(start, stop, CHUNK):
            found, whole = _within(other, place, min(place + CHUNK, stop))
            at = np.flatnonzero(whole)
            at = at[held.seen[np.searchsorted(held.hashes, found[at])]] + place
            for token in range(NGRAM):
                mask[at + token] = 1
    mask.flush()
    return int(mask.sum())


def _hashes(tokens: Tokens, start: int, stop: int) -> Hashes:
    """The hashes of the runs that begin in [start, stop)."""
    return hash_ngrams(tokens.read(start, min(stop + NGRAM - 1, len(tokens))), NGRAM)


def _within(tokens: Tokens, start: int, stop: int) -> tuple[Hashes, Flags]:
    """The hashes of the runs that begin in [start, stop), and which lie within a document."""
    hashes = _hashes(tokens, start, stop)
    ends = tokens.read(start, min(stop + NGRAM - 1, len(tokens))) == END_OF_TEXT
    whole = np.ones(len(hashes), bool)
    for token in range(NGRAM):
        whole &= ~ends[token : token + len(hashes)]
    return hashes, whole
