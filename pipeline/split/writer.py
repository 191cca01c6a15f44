"""Tokens on their way to disk: shards of little-endian uint16, and the `meta.json` that lists them.

`pipeline.tokens.windows` reads them. A split's `meta.json` is written last: where it stands, the
split is whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pipeline.reports import SplitCounts
from pipeline.system.files import write_json
from pipeline.tokens.windows import FORMAT, META, TOKEN

SHARD = 100_000_000  # tokens: 200 MB


class TokenWriter:
    """Writes the tokens of one split into shards, and counts what they stand for."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.tokens = self.characters = self.bytes = self.ends = 0
        self._folder = folder
        self._shards: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None

    def write(self, tokens: npt.NDArray[np.uint16], characters: int, size: int, ends: int) -> None:
        """Append tokens that stand for so many characters, UTF-8 bytes and ends of documents."""
        self.tokens += len(tokens)
        self.characters += characters
        self.bytes += size
        self.ends += ends
        while len(tokens):
            if self._file is None or self._shards[-1]["tokens"] == SHARD:
                self._file = self._next_shard()
            room = SHARD - self._shards[-1]["tokens"]
            self._file.write(tokens[:room].astype(TOKEN, copy=False).tobytes())
            self._shards[-1]["tokens"] += len(tokens[:room])
            tokens = tokens[room:]

    def counts(self) -> SplitCounts:
        return SplitCounts(
            tokens=self.tokens,
            documents=self.ends or 1,  # a single document, which has no end written, is in all
            characters=self.characters,
            bytes=self.bytes,
        )

    def close(self, split: str, about: dict[str, Any]) -> None:
        """Write `meta.json`, the mark that the split is whole; `about` is what the corpus is."""
        if self._file:
            self._file.close()
        counts = self.counts().model_dump()
        meta = {"split": split} | FORMAT | counts | about | {"shards": self._shards}
        write_json(self._folder / META, meta)

    def _next_shard(self) -> BinaryIO:
        if self._file:
            self._file.close()
        self._shards.append({"file": f"{len(self._shards):05d}.bin", "tokens": 0})
        return open(self._folder / self._shards[-1]["file"], "wb")
