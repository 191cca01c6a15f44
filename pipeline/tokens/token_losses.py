"""Models' losses for every target token of validation and test, on disk.

A folder holds `MODEL.SPLIT.npy`, float32 of shape (windows, context_length), for each model, a
`meta.json` that says of which tokens they are, and the digests of all. The arrays are
memory-mapped: they may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.errors import UserError
from pipeline.system.checksums import check, write_sums
from pipeline.system.files import folder_aside
from pipeline.system.names import Name
from pipeline.system.records import Record
from pipeline.tokens.splits import Splits
from pipeline.tokens.windows import META

KEPT = ("val", "test")  # training text is not what a model is judged on
LOSS = np.dtype("<f4")
MOST = 1 << 40  # windows: more than any disk holds
REMEDY = "`dvc repro -f evaluate` or `dvc repro -f baseline` writes it anew"

Losses = npt.NDArray[np.float32]


class MeasuredTokens(Record):
    """The windows of a split that losses are of.

    Attributes:
        sha256: `Tokens.digest`.
        windows: of the split.
        stride: every so many of them is measured, from the first on.
    """

    sha256: str
    windows: int = Field(ge=1, le=MOST)
    stride: int = Field(ge=1, le=MOST)

    @property
    def indices(self) -> range:
        return range(0, self.windows, self.stride)


class TokenLossesMeta(Record):
    """`meta.json`."""

    corpus_sha256: str
    context_length: int = Field(ge=1)
    models: tuple[Name, ...]
    splits: dict[Name, MeasuredTokens]

    @classmethod
    def of(cls, splits: Splits, models: Iterable[str]) -> TokenLossesMeta:
        return cls(
            corpus_sha256=splits.corpus_sha256,
            context_length=splits.context_length,
            models=tuple(models),
            splits={
                name: MeasuredTokens(
                    sha256=windows.tokens.digest,
                    windows=len(windows),
                    stride=splits.measured[name].step,
                )
                for name, windows in splits.windows.items()
                if name in KEPT
            },
        )

    def shape(self, split: str) -> tuple[int, int]:
        return len(self.splits[split].indices), self.context_length


class TokenLosses:
    """The losses in a folder."""

    def __init__(self, folder: Path, meta: TokenLossesMeta):
        self.folder = folder
        self.meta = meta

    @classmethod
    def open(cls, folder: Path) -> TokenLosses:
        """
        Raises:
            UserError: a file is missing, or is not what was written.
        """
        meta = TokenLossesMeta.read(folder / META, REMEDY)
        check(folder, [META], REMEDY)
        losses = cls(folder, meta)
        for model in meta.models:
            for split in meta.splits:
                file = _file(folder, model, split)
                check(file.parent, [file.name], REMEDY)
                losses.of(model, split)
        return losses

    def of(self, model: str, split: str) -> Losses:
        """Nats for each target, float32 (windows, context_length), memory-mapped.

        Raises:
            UserError: the file is no such array.
        """
        path = _file(self.folder, model, split)
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: no array of losses ({error}); {REMEDY}") from None
        if found.dtype != LOSS or found.shape != self.meta.shape(split):
            raise UserError(
                f"{path}: {found.dtype} of shape {found.shape}, where float32 of shape "
                f"{self.meta.shape(split)} is right; {REMEDY}"
            )
        array: Losses = found
        return array

    def windows(self, split: str) -> range:
        """The indices of the windows that the rows are of."""
        return self.meta.splits[split].indices


class TokenLossesWriter:
    """Writes losses as they are measured."""

    def __init__(self, folder: Path, meta: TokenLossesMeta):
        self._folder = folder
        self._meta = meta
        self._arrays = {
            (model, split): np.lib.format.open_memmap(
                _file(folder, model, split), "w+", LOSS, meta.shape(split)
            )
            for model in meta.models
            for split in meta.splits
        }
        self._rows = dict.fromkeys(self._arrays, 0)

    def append(self, model: str, split: str, losses: Losses) -> None:
        """Append the losses of a model's next windows of a split, (B, T); of KEPT splits alone."""
        if split not in KEPT:
            return
        row = self._rows[model, split]
        self._arrays[model, split][row : row + len(losses)] = losses
        self._rows[model, split] = row + len(losses)

    def close(self) -> None:
        """Write what was kept; the digests last."""
        for key, array in self._arrays.items():
            assert self._rows[key] == len(array), f"{key}: {self._rows[key]} of {len(array)} rows"
            array.flush()
        self._arrays.clear()
        self._meta.write(self._folder / META)
        write_sums(self._folder)


@contextmanager
def kept_losses(folder: Path, splits: Splits, models: Iterable[str]) -> Iterator[TokenLossesWriter]:
    """A writer of `folder`, which is replaced at the block's good end."""
    with folder_aside(folder) as aside:
        writer = TokenLossesWriter(aside, TokenLossesMeta.of(splits, models))
        yield writer
        writer.close()


def require_same_tokens(folders: Mapping[Path, TokenLossesMeta], splits: Splits) -> None:
    """
    Raises:
        UserError: one of them is of other tokens than `splits` are.
    """
    wanted = TokenLossesMeta.of(splits, ())
    for folder, meta in folders.items():
        for key in ("corpus_sha256", "context_length"):
            if getattr(meta, key) != getattr(wanted, key):
                raise UserError(_other(folder, key))
        for name, tokens in wanted.splits.items():
            if name not in meta.splits or meta.splits[name].sha256 != tokens.sha256:
                raise UserError(_other(folder, f"splits.{name}"))


def _other(folder: Path, key: str) -> str:
    return (
        f"{folder / META}: {key} is not that of the tokens on disk: the losses are of other "
        "tokens; `dvc repro` measures them on the same"
    )


def _file(folder: Path, model: str, split: str) -> Path:
    return folder / f"{model}.{split}.npy"
