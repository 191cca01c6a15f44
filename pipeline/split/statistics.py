"""Which tokens there are in a split corpus, and how long its documents are in tokens.

Everything is added up from parts that come in order, in constant memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.corpus.statistics import Lengths
from pipeline.tokens.tokenizer import END_OF_TEXT, VOCABULARY, decode

MOST_COMMON = 20


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
