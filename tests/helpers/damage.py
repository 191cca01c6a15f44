"""Files that a failing disk, or a hand, has changed."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path, at: int | None = None, count: int = 1) -> None:
    """Flip a bit of `count` bytes from `at` on, by default in the middle of the file."""
    content = bytearray(path.read_bytes())
    at = len(content) // 2 if at is None else at
    for place in range(at, at + count):
        content[place] ^= 0x04
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Take away the last seven bytes."""
    path.write_bytes(path.read_bytes()[:-7])
