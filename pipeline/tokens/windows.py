"""Tokens on disk as windows for a model, without loading the corpus.

A split's folder holds shards of little-endian uint16 token ids, a `meta.json` that lists them, and
the digests of all (`system.checksums`), which are checked when it is opened. A read takes just the
bytes that it needs from the shards that it touches (`pread`), so it costs the same among ten shards
as among thousands, memory does not grow with the corpus, and threads may read at once. Processes on
one machine share the page cache. Mapped files were measured at twice the time: random windows take
page faults, and pages must be unmapped again lest they count as this process's.

Beside the shards of validation and test lies a mask, a byte per token: 1 where it stands in the
training text too, in a run of `NGRAM` tokens or more (`pipeline.split.shared`).

Windows are the book's: non-overlapping, `context_length` tokens each from the start of the split,
the last short one dropped; targets are inputs shifted by one, so n tokens hold (n - 1) // T.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.errors import UserError
from pipeline.numbers import counted
from pipeline.reports import SplitCounts
from pipeline.system.checksums import SUMS, check
from pipeline.system.files import sha256_of
from pipeline.system.names import Name
from pipeline.system.records import Record
from pipeline.tokens.tokenizer import VOCABULARY, byte_lengths

if TYPE_CHECKING:
    import torch

META = "meta.json"
TOKEN = np.dtype("<u2")
MUCH_SHARED = 0.05  # of a split's tokens: in stories by chance 0 to 0.03 are
REMEDY = "`dvc checkout data/tokens` or `dvc repro -f split` brings it back"

MOST_OPEN = min(os.sysconf("SC_OPEN_MAX") // 4, 4096)  # shards of a split that stay open
MOST_AT_ONCE = 1 << 29  # tokens of one system call, which takes less than 2 GiB

State = tuple[int, int, int]  # of a file: its size, time of change in ns, and inode
Indices = Sequence[int] | npt.NDArray[np.int64]


class TokenShard(Record):
    """A file of token ids, and how many it holds."""

    file: Name
    tokens: int = Field(gt=0)


class SplitMeta(SplitCounts):
    """`meta.json`: what a split is, and of which corpus.

    Attributes:
        shared: the file of the mask; None for training, and for tokens of older versions.
    """

    split: str
    encoding: Literal["gpt2"] = "gpt2"
    dtype: Literal["uint16"] = "uint16"
    corpus: str
    corpus_sha256: str
    shards: tuple[TokenShard, ...]
    shared: Name | None = Field(None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def shards_hold_the_tokens(self) -> SplitMeta:
        if (held := sum(shard.tokens for shard in self.shards)) != self.tokens:
            raise PydanticCustomError(
                "sum",
                "the shards hold {held} tokens where `tokens` is {tokens}",
                {"held": held, "tokens": self.tokens},
            )
        return self


class Tokens:
    """One split's tokens, end to end, whatever shards they lie in."""

    def __init__(self, folder: Path, meta: SplitMeta):
        """The shards that `meta` lists, their bytes unchecked; raises as `open`."""
        self.folder = folder
        self.meta = meta
        states = {s.file: _state(folder / s.file, s.tokens, 2) for s in meta.shards}
        if meta.shared is not None:
            states[meta.shared] = _state(folder / meta.shared, meta.tokens, 1)
        self._file = lru_cache(MOST_OPEN)(lambda name: _File(f"{folder}/{name}", states[name]))
        # starts[k] is the position of shard k's first token; the last entry is the total.
        self._starts = [0, *accumulate(shard.tokens for shard in meta.shards)]

    @classmethod
    def open(cls, folder: Path) -> Tokens:
        """The split in `folder`.

        Raises:
            UserError: a file is missing, or is not what was written.
        """
        meta = SplitMeta.read(folder / META, REMEDY)
        tokens = cls(folder, meta)
        mask = [] if meta.shared is None else [meta.shared]
        check(folder, [META, *(shard.file for shard in meta.shards), *mask], REMEDY)
        return tokens

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def digest(self) -> str:
        """SHA-256 of the folder's digests: of the tokens, and all that is said of them."""
        return sha256_of(self.folder / SUMS)

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint16]:
        """Tokens [start, stop), shape (stop - start,), not to be written to.

        Raises:
            IndexError: the range is not within the split.
            UserError: a shard can no longer be read.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"{self.folder}: no tokens [{start}, {stop}) among {len(self)}")
        parts = []
        while start < stop:
            shard = bisect_right(self._starts, start) - 1
            first, end = self._starts[shard : shard + 2]
            end = min(end, stop, start + MOST_AT_ONCE)
            file = self._file(self.meta.shards[shard].file)
            parts.append(
                file.read((start - first) * TOKEN.itemsize, (end - first) * TOKEN.itemsize)
            )
            start = end
        return np.frombuffer(b"".join(parts), TOKEN)

    def shared(self, start: int, stop: int) -> npt.NDArray[np.bool_] | None:
        """Whether tokens [start, stop) stand in the training text; None where nobody looked."""
        if self.meta.shared is None:
            return None
        mask = np.frombuffer(self._file(self.meta.shared).read(start, stop), np.uint8)
        return mask.astype(bool)


class _File:
    """A file that is open; whatever is put into its place later, this reads what was there.

    Raises:
        UserError: it cannot be read, or is not in the `state` that it was checked in.
    """

    def __init__(self, path: str, state: State) -> None:
        self._path = path
        try:
            self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; {REMEDY}") from None
        if _state_of(os.fstat(self._number)) != state:
            raise UserError(f"{path}: was changed after it was checked; {REMEDY}")

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), less than 2 GiB."""
        try:
            data = os.pread(self._number, stop - start, start)
        except OSError as error:
            raise UserError(f"{self._path}: {error.strerror}; {REMEDY}") from None
        if len(data) < stop - start:
            raise UserError(f"{self._path}: was cut off while it was read; {REMEDY}")
        return data


class Windows:
    """Non-overlapping windows of `context_length` tokens and their targets."""

    def __init__(self, tokens: Tokens, context_length: int):
        self.tokens = tokens
        self.context_length = context_length

    @classmethod
    def open(cls, folder: Path, context_length: int) -> Windows:
        """A split that holds at least one window.

        Raises:
            UserError: as `Tokens.open`; or the split is too short for one window.
        """
        windows = cls(Tokens.open(folder), context_length)
        if not len(windows):
            raise UserError(
                f"{folder}: {counted(len(windows.tokens), 'token')}, too few for one window of "
                f"model.context_length {context_length}, which takes {context_length + 1}; "
                "lower it, move split.train_fraction, or give prepare.corpus a longer text"
            )
        return windows

    def __len__(self) -> int:
        return max(len(self.tokens) - 1, 0) // self.context_length

    def batch(self, indices: Indices) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets of the windows named, int64, (B, T) each.

        Raises:
            IndexError: there is no such window.
            UserError: a shard holds a number that is no token id.
        """
        import torch  # seconds; `split` uses this module and needs no tensors

        rows = self._gather(indices)  # (B, T + 1)
        # Copied by NumPy: torch would start a pool of threads for who reads ahead.
        inputs, targets = (np.ascontiguousarray(part) for part in (rows[:, :-1], rows[:, 1:]))
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    def spread(self, most: int | None) -> range:
        """The indices of so many windows at most, evenly spread from the first; None: of all."""
        windows = len(self)
        return range(0, windows, -(-windows // (most or windows)))

    def targets(self, indices: Indices) -> npt.NDArray[np.int64]:
        """The target tokens of the windows named, (B, T); raises as `batch` does."""
        return self._gather(indices)[:, 1:]

    def target_bytes(self, indices: Indices) -> int:
        """UTF-8 bytes that the windows' targets stand for; end-of-text counts none."""
        return int(byte_lengths()[self.targets(indices)].sum())

    def shared(self, indices: Indices) -> npt.NDArray[np.bool_] | None:
        """Whether the windows' targets stand in the training text too, in runs of `NGRAM` or more.

        Returns:
            bool, (B, T); None where the split has no mask: training, and tokens of older versions.

        Raises:
            IndexError: there is no such window.
        """
        rows = np.empty((len(indices), self.context_length), dtype=bool)
        for row, index in zip(rows, indices, strict=True):
            start = self._start(index)
            found = self.tokens.shared(start + 1, start + 1 + self.context_length)
            if found is None:
                return None
            row[:] = found
        return rows

    def _start(self, index: int | np.int64) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.tokens.folder}: no window {index} among {len(self)}")
        return int(index) * self.context_length

    def dataset(self, indices: range | None = None) -> dict[str, Any]:
        """The windows named, by default all, as the data set that `Run.log_input` takes.

        Its digest is equal where losses may be compared: the same tokens in the same windows.
        """
        meta = self.tokens.meta
        indices = self.spread(None) if indices is None else indices
        windows = f"{self.tokens.digest} {self.context_length} {indices}"
        counts = {key: getattr(meta, key) for key in SplitCounts.model_fields}
        return {
            "name": f"{meta.corpus}/{meta.split}",
            "source": str(self.tokens.folder),
            "digest": hashlib.sha256(windows.encode()).hexdigest(),
            "profile": {
                **counts,
                "context_length": self.context_length,
                "windows": len(indices),
            },
        }

    def _gather(self, indices: Indices) -> npt.NDArray[np.int64]:
        length = self.context_length
        rows = np.empty((len(indices), length + 1), dtype=np.int64)
        for row, index in zip(rows, indices, strict=True):
            start = self._start(index)
            row[:] = self.tokens.read(start, start + length + 1)
        if rows.size and rows.max() >= VOCABULARY:
            raise UserError(
                f"{self.tokens.folder}: holds {rows.max()}, which is no GPT-2 token; {REMEDY}"
            )
        return rows


def _state_of(found: os.stat_result) -> State:
    return found.st_size, found.st_mtime_ns, found.st_ino


def _state(path: Path, tokens: int, size: int) -> State:
    """Of a file that holds so many tokens of so many bytes each."""
    try:
        state = _state_of(path.stat())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {REMEDY}") from None
    if state[0] != tokens * size:
        raise UserError(
            f"{path}: {state[0]} bytes where meta.json names {tokens} tokens of {size}; {REMEDY}"
        )
    return state
