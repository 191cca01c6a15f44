"""The SHA-256 of every file of a folder, in `_SHA256SUMS`: written last, checked by who reads.

Three flipped bytes make other tokens, or another model, and nothing else would show it. The file
is as `sha256sum` writes it, so that `sha256sum -c _SHA256SUMS` does by hand what readers do.

Sharp edge: a large file's digest is looked up by its size, time of change and inode
(`digest_cache`); bytes that change under an equal three, as by a failing disk, go unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import UserError
from pipeline.system.digest_cache import digest_of
from pipeline.system.files import read_bounded, sha256_of, write_text

SUMS = "_SHA256SUMS"  # readers of Parquet folders pass over names that begin so
LINE = re.compile(r"([0-9a-f]{64})  ([^/]+)")


def write_sums(folder: Path, known: Mapping[str, str | None] | None = None) -> None:
    """Write `_SHA256SUMS` of the files in `folder`, the mark that all of them are there.

    Args:
        known: digests that need no reading again, by name.
    """
    known = known or {}
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SUMS)
    with ThreadPoolExecutor() as threads:
        digests = list(threads.map(lambda path: known.get(path.name) or sha256_of(path), paths))
    lines = [f"{digest}  {path.name}\n" for digest, path in zip(digests, paths, strict=True)]
    write_text(folder / SUMS, "".join(lines))


def check(folder: Path, names: Iterable[str], remedy: str) -> None:
    """Compare files with what their folder's `_SHA256SUMS` says of them.

    Args:
        remedy: how to get the right file back, for the error.

    Raises:
        UserError: one is another, is not named there, or it or `_SHA256SUMS` cannot be read.
    """
    try:
        lines = read_bounded(folder / SUMS).decode("utf-8", "replace").splitlines()
        wanted = {match[2]: match[1] for match in map(LINE.fullmatch, lines) if match}
        for name in names:
            _check(folder / name, wanted.get(name), remedy)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; {remedy}") from None


def _check(path: Path, wanted: str | None, remedy: str) -> None:
    if path.exists() and not path.is_file():  # a pipe would hang who reads it
        raise UserError(f"{path}: not a regular file; {remedy}")
    found = digest_of(path)
    if wanted is None:
        raise UserError(f"{path.parent / SUMS}: does not name {path.name}; {remedy}")
    if found != wanted:
        raise UserError(
            f"{path}: its SHA-256 is {found[:12]}… where {SUMS} has {wanted[:12]}…; "
            f"it was changed after it was written; {remedy}"
        )


def check_where_known(path: Path, remedy: str) -> None:
    """As `check`, for a folder that another program may have made, without `_SHA256SUMS`."""
    if (path.parent / SUMS).exists():
        check(path.parent, [path.name], remedy)
