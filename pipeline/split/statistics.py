"""Which tokens there are in a split corpus, and how long its documents are in tokens.

Everything is added up from parts that come in order, in constant memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.corpus.statistics import Lengths
from pipeline.reports import SplitCounts, SplitStatistics, TokenCount
from pipeline.tokens.tokenizer import END_OF_TEXT, VOCABULARY, token_text

MOST_COMMON = 20


class TokenStatistics:
    """Which tokens there are, and how long the documents between the ends of text."""

    def __init__(self) -> None:
        self._tokens = np.zeros(VOCABULARY, np.int64)
        self._lengths = Lengths()
        self._open: Counter[str] = Counter()  # by split, tokens of the unfinished document

    def add(self, split: str, tokens: npt.NDArray[np.uint16]) -> None:
        """Count the next tokens of a split."""
        self._tokens += np.bincount(tokens, minlength=VOCABULARY)
        ends = np.flatnonzero(tokens == END_OF_TEXT)
        if not len(ends):
            self._open[split] += len(tokens)
            return
        lengths = np.diff(ends, prepend=-1) - 1
        self._lengths.add(int(lengths[0]) + self._open[split])
        for length in lengths[1:].tolist():
            self._lengths.add(length)
        self._open[split] = len(tokens) - int(ends[-1]) - 1

    def report(self, splits: Sequence[SplitCounts]) -> SplitStatistics:
        """The statistics of a corpus, given the counts of its splits.

        Tokens are those of the texts, without the ends of text between them.
        """
        counts = self._tokens.copy()
        documents = int(counts[END_OF_TEXT])
        counts[END_OF_TEXT] = 0
        if not documents:  # a single document: nothing ends, and it lies in every split
            documents = 1
            self._lengths.add(int(counts.sum()))
        order = np.lexsort((np.arange(VOCABULARY), -counts))[:MOST_COMMON]
        tokens = int(counts.sum())
        return SplitStatistics(
            tokens_per_document=tokens / documents,
            characters_per_token=sum(split.characters for split in splits) / max(tokens, 1),
            bytes_per_token=sum(split.bytes for split in splits) / max(tokens, 1),
            distinct_tokens=int((counts > 0).sum()),
            most_common=tuple(
                TokenCount(token=token, text=token_text(token), count=int(counts[token]))
                for token in order.tolist()
                if counts[token]
            ),
            tokens_a_document=self._lengths.report(),
        )
