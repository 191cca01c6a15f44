"""What people look at first in a corpus: how long its documents are, of which tokens, excerpts.

Lengths are counted in powers of two, so that a histogram is a line a doubling, whatever the
corpus. Everything is added up from parts that come in order, in constant memory.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.tokens.tokenizer import END_OF_TEXT, VOCABULARY, decode

MOST_COMMON = 20
EXCERPTS = 12
EXCERPT = 400  # characters


class Lengths:
    """A histogram of lengths: how many lie in [1, 2), [2, 4), [4, 8), ..."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, length: int) -> None:
        self._counts[length.bit_length()] += 1

    def report(self) -> list[dict[str, int]]:
        """`{"from": 4, "below": 8, "documents": 3}` for each class between the outermost two."""
        if not self._counts:
            return []
        classes = range(min(self._counts), max(self._counts) + 1)
        return [
            {"from": 1 << (k - 1) if k else 0, "below": 1 << k, "documents": self._counts[k]}
            for k in classes
        ]


class TextStatistics:
    """How long the documents are, and a page of excerpts.

    Which documents are shown, and where they are cut, follows from a hash of their source: as
    random as dice, and the same each time.
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

    def report(self) -> dict[str, Any]:
        """What `reports/corpus.json` holds under `statistics`."""
        return {
            "characters_per_document": self._characters / max(self._documents, 1),
            "characters_a_document": self._lengths.report(),
            "excerpts": [
                {"source": source, "title": title, "text": text}
                for _, source, title, text in sorted(self._shown, reverse=True)
            ],
        }


class TokenStatistics:
    """Which tokens there are, and how long the documents between the ends of text."""

    def __init__(self) -> None:
        self._tokens = np.zeros(VOCABULARY, np.int64)
        self._lengths = Lengths()
        self._open: Counter[str] = Counter()  # tokens of the document that has begun on a side

    def add(self, side: str, tokens: npt.NDArray[np.uint16]) -> None:
        """Count the next tokens of a side."""
        self._tokens += np.bincount(tokens, minlength=VOCABULARY)
        ends = np.flatnonzero(tokens == END_OF_TEXT)
        if not len(ends):
            self._open[side] += len(tokens)
            return
        lengths = np.diff(ends, prepend=-1) - 1
        self._lengths.add(int(lengths[0]) + self._open[side])
        for length in lengths[1:].tolist():
            self._lengths.add(length)
        self._open[side] = len(tokens) - int(ends[-1]) - 1

    def report(self, sides: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
        """What `reports/split.json` holds under `statistics`; `sides` are its counts by side.

        Tokens are those of the texts, the ends that were put between them left out.
        """
        counts = self._tokens.copy()
        documents = int(counts[END_OF_TEXT])
        counts[END_OF_TEXT] = 0
        if not documents:  # a single document: nothing ends, and it lies on every side
            documents = 1
            self._lengths.add(int(counts.sum()))
        order = np.lexsort((np.arange(VOCABULARY), -counts))[:MOST_COMMON]
        return {
            "tokens_per_document": int(counts.sum()) / documents,
            "characters_per_token": _ratio(sides, "characters", counts),
            "bytes_per_token": _ratio(sides, "bytes", counts),
            "distinct_tokens": int((counts > 0).sum()),
            "most_common": [
                {"token": token, "text": decode([token]), "count": int(counts[token])}
                for token in order.tolist()
                if counts[token]
            ],
            "tokens_a_document": self._lengths.report(),
        }


def _ratio(
    sides: Mapping[str, Mapping[str, int]], what: str, counts: npt.NDArray[np.int64]
) -> float:
    return sum(side[what] for side in sides.values()) / max(int(counts.sum()), 1)
