"""Tokens on disk, read without `pipeline.tokens.windows`, whose mistakes would otherwise repeat.

The rule is the book's: n tokens hold (n - 1) // T windows, end to end from the first token on;
targets are inputs shifted by one. Of W windows, with `evaluate.windows` at M, those are measured
whose number is a multiple of W / M, rounded up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.system.checksums import check
from pipeline.tokens.tokenizer import END_OF_TEXT, VOCABULARY, encoding
from pipeline.tokens.windows import META, REMEDY, SplitMeta

PIECE = 1 << 20  # tokens that are held at once
BATCH = 1024  # tokens in a forward pass, or one window

Ids = npt.NDArray[np.int64]


class SplitFile:
    """A split's tokens and windows.

    Attributes:
        folder: holds the shards.
        corpus_sha256: of the corpus that they are of.
        length: tokens in a window.
        chosen: the numbers of the windows that are measured.
    """

    def __init__(self, folder: Path, length: int, most: int | None) -> None:
        """
        Args:
            most: windows that are measured, at most; None: all.

        Raises:
            UserError: a file is missing, or is not what was written.
        """
        meta = SplitMeta.read(folder / META, REMEDY)
        check(folder, [META, *(shard.file for shard in meta.shards)], REMEDY)
        self.folder, self.length = folder, length
        self.corpus_sha256 = meta.corpus_sha256
        self._shards = [(folder / shard.file, shard.tokens) for shard in meta.shards]
        self._starts = [0, *accumulate(count for _, count in self._shards)]
        if not (windows := max(len(self) - 1, 0) // max(length, 1)) or length < 1:
            raise UserError(f"{folder}: {len(self)} tokens make no window of {length}")
        self.chosen = spread(range(windows), most)

    def __len__(self) -> int:
        """Tokens."""
        return self._starts[-1]

    def read(self, start: int, count: int) -> Ids:
        """So many tokens from `start` on, fewer at the end.

        Raises:
            UserError: a shard is too short, or holds a number that is no token.
        """
        parts = [np.empty(0, np.int64)]
        for (path, tokens), first in zip(self._shards, self._starts, strict=False):
            low, high = max(start - first, 0), min(start + count - first, tokens)
            if low >= high:
                continue
            part = np.fromfile(path, "<u2", high - low, offset=2 * low).astype(np.int64)
            if len(part) != high - low or part.max() >= VOCABULARY:
                raise UserError(f"{path}: holds fewer tokens, or others than GPT-2's; {REMEDY}")
            parts.append(part)
        return np.concatenate(parts)

    def batches(self, windows: range) -> Iterator[tuple[slice, range]]:
        """The windows in parts that a forward pass takes, and where each stands among them."""
        size = max(1, BATCH // self.length)
        for start in range(0, len(windows), size):
            at = slice(start, start + size)
            yield at, windows[at]

    def batch(self, indices: range) -> tuple[Ids, Ids]:
        """Inputs and targets of these windows, (B, T) each."""
        rows = np.stack([self.read(i * self.length, self.length + 1) for i in indices])
        return rows[:, :-1], rows[:, 1:]

    def pieces(self) -> Iterator[tuple[int, Ids]]:
        """All tokens in order, `PIECE` at a time, each time with the number of the first."""
        for start in range(0, len(self), PIECE):
            yield start, self.read(start, PIECE)

    @cached_property
    def target_bytes(self) -> int:
        """UTF-8 bytes of the text that all targets of `chosen` stand for."""
        return sum(len(decoded(self.batch(range(i, i + 1))[1][0])) for i in self.chosen)


def spread(windows: range, most: int | None) -> range:
    """At most so many of the windows, evenly spread from the first; None: all."""
    return windows[:: math.ceil(len(windows) / (most or len(windows)))]


def decoded(tokens: Ids) -> bytes:
    """The bytes of the tokens by tiktoken; an end of text is none of the text."""
    return encoding().decode_bytes(tokens[tokens != END_OF_TEXT].tolist())
