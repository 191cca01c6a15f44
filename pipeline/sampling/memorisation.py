"""Verbatim memorisation: how much of a sample stands in the training text, word for word.

A token counts as copied when it lies in a run of `n` or more tokens that the training tokens hold
too. The samples are small and the corpus is not, so the index is over the samples: the corpus
is streamed once, a polynomial hash of every n-gram is looked up in a bitmap, and only what hits
is compared token by token. Memory follows the samples and one chunk, never the corpus, whose pages
are released as it passes; a billion tokens take about 20 seconds, and hash collisions cost time
and change no result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.tokens.ngrams import NGRAM, Hashes, hash_ngrams

CHUNK = 1 << 16  # corpus tokens at a time: small enough for a processor's cache
TABLE_BITS = 20  # 1 MB, which stays in the cache

Places = npt.NDArray[np.int64]


class Corpus(Protocol):
    """Tokens that may lie on a disk, as `pipeline.tokens.windows.Tokens`."""

    def __len__(self) -> int: ...
    def read(self, start: int, stop: int) -> npt.NDArray[np.uint16]: ...


@dataclass(frozen=True)
class CopiedSpans:
    """What one sample shares with the training tokens.

    Attributes:
        spans: where its tokens lie in shared runs of at least n tokens, as [start, stop).
        longest: the longest shared run, its tokens; empty where there is none.
        position: where among the training tokens that run first stands; the first of equally long.
    """

    spans: tuple[tuple[int, int], ...] = ()
    longest: tuple[int, ...] = ()
    position: int | None = None

    @property
    def copied(self) -> int:
        """How many tokens the spans hold."""
        return sum(stop - start for start, stop in self.spans)


def find_copies(
    samples: Sequence[Sequence[int]],
    corpus: Corpus,
    n: int = NGRAM,
    *,
    chunk: int = CHUNK,
    progress: Callable[[int], object] = lambda tokens: None,
) -> list[CopiedSpans]:
    """Compare every sample with the whole corpus, read once from start to end.

    Args:
        samples: token ids of each sample.
        corpus: the training tokens.
        n: the shortest run that counts.
        chunk: corpus tokens in memory at a time.
        progress: called with how many more tokens were read, chunk by chunk.
    """
    distinct = list(dict.fromkeys(map(tuple, samples)))
    index = _Index(distinct, n)
    if len(index.starts):
        for position, tokens, new in _chunks(corpus, chunk, max(map(len, distinct))):
            index.look_up(tokens, position, new)
            progress(new)
    found = dict(zip(distinct, index.copied_spans(), strict=True))
    return [found[tuple(sample)] for sample in samples]


def _chunks(
    corpus: Corpus, size: int, overlap: int
) -> Iterator[tuple[int, npt.NDArray[np.uint16], int]]:
    """(position, tokens, how many of them are new): each reaches `overlap` into the next."""
    for start in range(0, len(corpus), size):
        stop = min(start + size, len(corpus))
        yield start, corpus.read(start, min(stop + overlap, len(corpus))), stop - start


class _Index:
    """The n-grams of all samples, and which of them the corpus was found to hold so far.

    The samples lie end to end in `text`, each behind a -1 that equals no token, so a run of equal
    tokens never crosses from one to the next.
    """

    def __init__(self, samples: Sequence[Sequence[int]], n: int) -> None:
        self.n = n
        self.samples = samples
        self.text = np.concatenate([[-1, *sample] for sample in samples] + [[-1]]).astype(np.int64)
        self.offsets = np.cumsum([1, *(len(sample) + 1 for sample in samples)])
        broken = np.flatnonzero(self.text < 0)
        starts = np.arange(max(len(self.text) - n + 1, 0))
        # A start is good when no -1 lies among its n tokens.
        good = np.searchsorted(broken, starts) == np.searchsorted(broken, starts + n)
        self.starts: Places = starts[good]
        hashes = hash_ngrams(self.text, n)[self.starts]
        order = np.argsort(hashes, kind="stable")
        self.starts, self.hashes = self.starts[order], hashes[order]
        self.bitmap = np.zeros(1 << TABLE_BITS, dtype=bool)
        self.bitmap[_slots(self.hashes)] = True
        self.seen = np.zeros(len(self.text), dtype=bool)  # which starts the corpus holds
        self.longest = np.zeros((len(samples), 3), dtype=np.int64)  # length, start, position

    def look_up(self, tokens: npt.NDArray[np.uint16], position: int, new: int) -> None:
        """Record what n-grams that begin among the first `new` tokens share with the samples."""
        hashes = hash_ngrams(tokens, self.n)[:new]
        there = np.flatnonzero(self.bitmap[_slots(hashes)])
        entry = np.searchsorted(self.hashes, hashes[there], side="left")
        stop = np.searchsorted(self.hashes, hashes[there], side="right")
        # All places at once, with the first sample that has the n-gram, then the second, ...
        while len(there):
            more = entry < stop
            there, entry, stop = there[more], entry[more], stop[more]
            self._compare(tokens, there, self.starts[entry], position)
            entry = entry + 1

    def _compare(
        self, tokens: npt.NDArray[np.uint16], there: Places, here: Places, position: int
    ) -> None:
        """Follow the runs from corpus places `there` and text places `here` to their ends."""
        # A run that could begin one token earlier is followed from there instead.
        earlier = (there > 0) & (tokens[there - 1] == self.text[here - 1])
        lengths = np.zeros(len(here), dtype=np.int64)
        active = np.arange(len(here))
        while len(active):
            a, b = there[active] + lengths[active], here[active] + lengths[active]
            inside = a < len(tokens)
            equal = inside & (tokens[np.where(inside, a, 0)] == self.text[b])
            active = active[equal]
            lengths[active] += 1
            # To know that the n-gram is there takes n tokens; the rest is for the run's beginning.
            active = active[~(earlier[active] & (lengths[active] >= self.n))]
        real = lengths >= self.n
        self.seen[here[real]] = True
        self._keep_longest(lengths[real], here[real], there[real] + position)

    def _keep_longest(self, lengths: Places, here: Places, positions: Places) -> None:
        sample = np.searchsorted(self.offsets, here, side="right") - 1
        order = np.lexsort((here, positions, -lengths, sample))  # the best of each sample first
        for k in order[np.unique(sample[order], return_index=True)[1]]:
            length, start, position = self.longest[s := sample[k]]
            if (-lengths[k], positions[k], here[k]) < (-length, position, start):
                self.longest[s] = lengths[k], here[k], positions[k]

    def copied_spans(self) -> list[CopiedSpans]:
        covered = np.zeros(len(self.text), dtype=bool)
        for start in np.flatnonzero(self.seen):
            covered[start : start + self.n] = True
        return [
            self._copied_spans(_spans(covered[offset : offset + len(sample)]), *longest)
            for sample, offset, longest in zip(
                self.samples, self.offsets, self.longest.tolist(), strict=False
            )
        ]

    def _copied_spans(
        self, spans: tuple[tuple[int, int], ...], length: int, start: int, position: int
    ) -> CopiedSpans:
        if not length:
            return CopiedSpans()
        return CopiedSpans(spans, tuple(self.text[start : start + length].tolist()), position)


def _spans(covered: npt.NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """The runs of True, as [start, stop)."""
    edges = np.flatnonzero(np.diff(covered, prepend=False, append=False)).tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def _slots(hashes: Hashes) -> npt.NDArray[np.int64]:
    """Places in the bitmap: the high bits, which every token of an n-gram changes."""
    return (hashes >> np.uint64(64 - TABLE_BITS)).view(np.int64)
