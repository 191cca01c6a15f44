"""Training and validation tokens out of a corpus.

One document is cut as the book cuts "The Verdict": the first `train_fraction` of its characters
is for training, and the two sides are tokenised apart. Many documents are dealt out whole: a hash
of the id decides the side, so a document keeps its side when others come and go. End-of-text then
follows every document; a single one has none, so that its tokens are exactly those of its text.

Tokens go to shards of little-endian uint16 as they come; nothing grows with the corpus. Batches
are tokenised in threads, tiktoken leaving the interpreter free, and written in order: the bytes
are the same for any number of threads.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.loader import FORMAT, META, TOKEN
from pipeline.data.parquet import Corpus, Progress
from pipeline.data.tokenizer import END_OF_TEXT, PIECE, encode_piece, pieces
from pipeline.errors import UserError
from pipeline.files import folder_aside, write_json

Side = Literal["train", "val"]
SIDES: tuple[Side, Side] = ("train", "val")
SHARD = 100_000_000  # tokens: 200 MB


class Text(NamedTuple):
    """A piece of a document, on its way to a side; the end of one is an empty piece that `ends`."""

    side: Side
    text: str
    ends: bool = False


@dataclass
class Batch:
    """Pieces for one side that one thread tokenises."""

    side: Side
    texts: list[Text] = field(default_factory=list)
    characters: int = 0
    bytes: int = 0
    ends: int = 0

    def add(self, text: Text) -> None:
        self.texts.append(text)
        self.characters += len(text.text)
        self.bytes += len(text.text.encode("utf-8"))
        self.ends += text.ends

    def tokenise(self) -> npt.NDArray[np.uint16]:
        end = np.array([END_OF_TEXT], np.uint16)
        arrays = [end if text.ends else encode_piece(text.text) for text in self.texts]
        return np.concatenate(arrays)


class TokenWriter:
    """Writes the tokens of one side into shards, and counts what they stand for."""

    def __init__(self, folder: Path):
        folder.mkdir()
        self.tokens = self.characters = self.bytes = self.ends = 0
        self._folder = folder
        self._shards: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None

    def write(self, batch: Batch, tokens: npt.NDArray[np.uint16]) -> None:
        self.tokens += len(tokens)
        self.characters += batch.characters
        self.bytes += batch.bytes
        self.ends += batch.ends
        while len(tokens):
            if self._file is None or self._shards[-1]["tokens"] == SHARD:
                self._file = self._next_shard()
            room = SHARD - self._shards[-1]["tokens"]
            self._file.write(tokens[:room].astype(TOKEN).tobytes())
            self._shards[-1]["tokens"] += len(tokens[:room])
            tokens = tokens[room:]

    def counts(self) -> dict[str, int]:
        return {
            "tokens": self.tokens,
            "documents": self.ends or 1,  # a single document, which has no end written, is on both
            "characters": self.characters,
            "bytes": self.bytes,
        }

    def close(self, side: Side, corpus: Corpus) -> None:
        """Write `meta.json`, the mark that the side is whole."""
        if self._file:
            self._file.close()
        about = {"corpus": corpus.meta["corpus"], "corpus_sha256": corpus.meta["sha256"]}
        meta = {"split": side} | FORMAT | self.counts() | about | {"shards": self._shards}
        write_json(self._folder / META, meta)

    def _next_shard(self) -> BinaryIO:
        if self._file:
            self._file.close()
        self._shards.append({"file": f"{len(self._shards):05d}.bin", "tokens": 0})
        return open(self._folder / self._shards[-1]["file"], "wb")


def split(
    corpus_folder: Path,
    tokens_folder: Path,
    train_fraction: float,
    *,
    progress: Progress = lambda characters: None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Write `tokens_folder`/{train,val}; return what `reports/split.json` holds.

    `progress` is told of characters; `threads` is as many as there are cores where None.

    Raises:
        UserError: the corpus is missing or damaged, or a side would be empty; the folder stays.
    """
    corpus = Corpus.open(corpus_folder)
    texts = _by_characters if corpus.meta["documents"] == 1 else _by_document
    _check_sides(corpus, train_fraction)
    with folder_aside(tokens_folder) as aside:
        writers = {side: TokenWriter(aside / side) for side in SIDES}
        for batch, tokens in _tokenised(_batches(texts(corpus, train_fraction)), threads):
            writers[batch.side].write(batch, tokens)
            progress(batch.characters)
        for side, writer in writers.items():
            writer.close(side, corpus)
    about = {"corpus": corpus.meta["corpus"], "corpus_sha256": corpus.meta["sha256"]}
    return about | {side: writer.counts() for side, writer in writers.items()}


def position(document: str) -> float:
    """Where in [0, 1] a document's id falls; below the training fraction it is for training."""
    digest = hashlib.sha256(document.encode("utf-8")).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)


def _check_sides(corpus: Corpus, train_fraction: float) -> None:
    """Refuse a fraction that leaves a side empty, before any work, and say which would not."""
    meta = corpus.meta
    what = f"split.train_fraction {train_fraction} leaves one side of {meta['corpus']} empty"
    if meta["documents"] == 1:
        if not 0 < int(meta["characters"] * train_fraction) < meta["characters"]:
            raise UserError(f"{what}: it has {meta['characters']:,} characters; give a longer text")
        return
    low, high = 1.0, 0.0
    for place in map(position, corpus.ids()):
        low, high = min(low, place), max(high, place)
    if not low < train_fraction <= high:
        first, last = math.floor(low * 1e4 + 1) / 1e4, math.floor(high * 1e4) / 1e4
        hint = f"a value from {first} to {last} does not" if first <= last else "give more of them"
        raise UserError(
            f"{what}: its {meta['documents']:,} documents go whole to one side or the other; {hint}"
        )


def _by_characters(corpus: Corpus, train_fraction: float) -> Iterator[Text]:
    left = int(corpus.meta["characters"] * train_fraction)  # for training
    for row in corpus.rows():
        yield from (Text("train", piece) for piece in pieces(row.text[:left]))
        yield from (Text("val", piece) for piece in pieces(row.text[left:]))
        left = max(left - len(row.text), 0)


def _by_document(corpus: Corpus, train_fraction: float) -> Iterator[Text]:
    for (document, _), rows in groupby(corpus.rows(), key=lambda row: (row.id, row.source)):
        side: Side = "train" if position(document) < train_fraction else "val"
        for row in rows:
            for piece in pieces(row.text):
                yield Text(side, piece)
        yield Text(side, "", ends=True)


def _batches(texts: Iterable[Text]) -> Iterator[Batch]:
    """The texts of each side in order, gathered until a batch is worth a thread's while."""
    filling = {side: Batch(side) for side in SIDES}
    for text in texts:
        batch = filling[text.side]
        batch.add(text)
        if batch.characters >= PIECE:
            yield batch
            filling[text.side] = Batch(text.side)
    yield from (batch for batch in filling.values() if batch.texts)


def _tokenised(
    batches: Iterable[Batch], threads: int | None
) -> Iterator[tuple[Batch, npt.NDArray[np.uint16]]]:
    """The batches in order with their tokens, some of them ahead of the reader."""
    threads = threads or _cores()
    running: deque[tuple[Batch, Future[npt.NDArray[np.uint16]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="tokenise") as pool:
        for batch in batches:
            running.append((batch, pool.submit(batch.tokenise)))
            if len(running) > 2 * threads:
                done, tokens = running.popleft()
                yield done, tokens.result()
        for done, tokens in running:
            yield done, tokens.result()


def _cores() -> int:
    """The cores that this process may use, where the system can tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
