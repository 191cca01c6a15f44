"""Tokens on their way to disk: shards of little-endian uint16, and the `meta.json` that lists them.

`pipeline.tokens.windows` reads them. The digests of a split's files are written last: where they
stand, the split is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.reports import SplitCounts
from pipeline.system.checksums import write_sums
from pipeline.tokens.windows import META, TOKEN, SplitMeta, Tokens, TokenShard

SHARD = 100_000_000  # tokens: 200 MB


class TokenWriter:
    """Writes the tokens of one split into shards, and counts what they stand for."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.tokens = self.characters = self.bytes = self.ends = 0
        self._folder = folder
        self._shards: list[int] = []  # tokens of each
        self._file: BinaryIO | None = None

    def write(self, tokens: npt.NDArray[np.uint16], characters: int, size: int, ends: int) -> None:
        """Append tokens that stand for so many characters, UTF-8 bytes and ends of documents."""
        self.tokens += len(tokens)
        self.characters += characters
        self.bytes += size
        self.ends += ends
        while len(tokens):
            if self._file is None or self._shards[-1] == SHARD:
                self._file = self._next_shard()
            room = SHARD - self._shards[-1]
            self._file.write(tokens[:room].astype(TOKEN, copy=False).tobytes())
            self._shards[-1] += len(tokens[:room])
            tokens = tokens[room:]

    def counts(self) -> SplitCounts:
        return SplitCounts(
            tokens=self.tokens,
            documents=self.ends or 1,  # a single document, which has no end written, is in all
            characters=self.characters,
            bytes=self.bytes,
        )

    def close(self, split: str, corpus: str, corpus_sha256: str) -> Tokens:
        """End the last shard; return all tokens, which are not sealed yet."""
        if self._file:
            self._file.close()
        meta = SplitMeta(
            split=split,
            **dict(self.counts()),
            corpus=corpus,
            corpus_sha256=corpus_sha256,
            shards=tuple(
                TokenShard(file=_name(number), tokens=tokens)
                for number, tokens in enumerate(self._shards)
            ),
        )
        return Tokens(self._folder, meta)

    def _next_shard(self) -> BinaryIO:
        if self._file:
            self._file.close()
        self._shards.append(0)
        return open(self._folder / _name(len(self._shards) - 1), "wb")


def seal(folder: Path, meta: SplitMeta) -> None:
    """Write a split's `meta.json` and the digests of its files."""
    meta.write(folder / META)
    write_sums(folder)


def _name(shard: int) -> str:
    return f"{shard:05d}.bin"
