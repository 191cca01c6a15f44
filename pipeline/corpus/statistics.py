"""What people look at first in a corpus: how long its documents are, and excerpts.

Lengths are counted in powers of two, so that a histogram has one class per doubling, whatever the
corpus. Everything is added up from parts that come in order, in constant memory.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter

from pipeline.reports import CorpusStatistics, Excerpt, LengthClass

EXCERPTS = 12
EXCERPT = 400  # characters


class Lengths:
    """A histogram of lengths: how many lie in [1, 2), [2, 4), [4, 8), ..."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, length: int) -> None:
        self._counts[length.bit_length()] += 1

    def report(self) -> tuple[LengthClass, ...]:
        """Each class between the outermost two, the empty ones included."""
        if not self._counts:
            return ()
        classes = range(min(self._counts), max(self._counts) + 1)
        return tuple(
            LengthClass(start=1 << (k - 1) if k else 0, below=1 << k, documents=self._counts[k])
            for k in classes
        )


class TextStatistics:
    """How long the documents are, and a page of excerpts.

    Which documents are shown, and where they are cut, follows from a hash of their source:
    pseudo-random, and the same each time.
    """

    def __init__(self) -> None:
        self._lengths = Lengths()
        self._documents = self._characters = 0
        self._shown: list[tuple[int, str, str, str]] = []  # a heap, the largest draw first

    def add(self, title: str, source: str, text: str, characters: int) -> None:
        """Count a document of so many characters, of which `text` is the beginning."""
        self._documents += 1
        self._characters += characters
        self._lengths.add(characters)
        draw = int.from_bytes(hashlib.sha256(source.encode("utf-8")).digest()[:8], "big")
        if len(self._shown) == EXCERPTS and -self._shown[0][0] < draw:
            return
        start = draw % max(len(text) - EXCERPT, 1)
        shown = (-draw, source, title, text[start : start + EXCERPT].strip())
        if len(self._shown) < EXCERPTS:
            heapq.heappush(self._shown, shown)
        else:
            heapq.heapreplace(self._shown, shown)

    def report(self) -> CorpusStatistics:
        return CorpusStatistics(
            characters_per_document=self._characters / max(self._documents, 1),
            characters_a_document=self._lengths.report(),
            excerpts=tuple(
                Excerpt(source=source, title=title, text=text)
                for _, source, title, text in sorted(self._shown, reverse=True)
            ),
        )
