"""The splits of a corpus as windows, and how many of them are measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.numbers import counted
from pipeline.system.markdown import inline
from pipeline.tokens.windows import Windows


@dataclass(frozen=True)
class Splits:
    """The windows of the splits that there are.

    Attributes:
        test: None where the corpus has no test split.
        most: windows of each split that are measured, at most, evenly spread; None: all.
    """

    train: Windows
    val: Windows
    test: Windows | None = None
    most: int | None = None

    @classmethod
    def open(cls, folder: Path, context_length: int, most: int | None = None) -> Splits:
        """Map `train/`, `val/` and, where it is there, `test/` of `folder`.

        Raises:
            UserError: as `Windows.open`.
        """
        train, val = (Windows.open(folder / name, context_length) for name in ("train", "val"))
        has_test = (folder / "test").exists()
        test = Windows.open(folder / "test", context_length) if has_test else None
        return cls(train, val, test, most)

    @property
    def windows(self) -> dict[str, Windows]:
        """By name, in the order in which they are measured."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: windows for name, windows in named.items() if windows is not None}

    @property
    def measured(self) -> dict[str, range]:
        """The indices of the windows that are measured, by split."""
        return {name: windows.spread(self.most) for name, windows in self.windows.items()}

    def __len__(self) -> int:
        """How many windows are measured."""
        return sum(map(len, self.measured.values()))

    @property
    def context_length(self) -> int:
        return self.val.context_length

    @property
    def corpus_sha256(self) -> str:
        return self.val.tokens.meta.corpus_sha256

    def __str__(self) -> str:
        """What is measured, in Markdown."""
        counts = {name: len(indices) for name, indices in self.measured.items()}
        test = f", {counts['test']:,} test" if "test" in counts else ""
        return (
            f"**{inline(self.val.tokens.meta.corpus)}**: {counts['train']:,} training{test} and "
            f"{counted(counts['val'], 'validation window')} of {self.context_length} tokens"
        )
