"""Files that are whole or absent: everything is written aside, synced and renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from pipeline.errors import UserError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends well.

    A block that raises leaves `path` as it was and no temporary file behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends well, it takes the place of `path`.

    A block that raises leaves `path` as it was. What a killed process left aside is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.old")
    aside.mkdir()
    try:
        yield aside
        if path.exists():  # no system call swaps two folders everywhere
            os.replace(path, replaced)
        os.replace(aside, path)
    except BaseException:
        if replaced.exists() and not path.exists():
            os.replace(replaced, path)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _remove_left(path: Path) -> None:
    """Remove the folders that killed processes left beside `path`."""
    for left in path.parent.glob(f".{path.name}.*"):
        process, end = left.name.split(".")[-2:]
        if end in ("part", "old") and process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; a value that JSON cannot express (NaN, infinity) is a bug."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON written by another stage.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` writes it") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); `dvc repro -f` rewrites it") from None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as 64 hex digits, read in blocks."""
    return digest_of(path, "sha256")


def digest_of(path: Path, algorithm: str) -> str:
    """A file's digest in hexadecimal digits, by an algorithm that hashlib knows by that name.

    Raises:
        OSError: the file is missing, or the disk fails.
    """
    with open(path, "rb") as file:
        digest = partial(hashlib.new, algorithm, usedforsecurity=False)
        return hashlib.file_digest(file, digest).hexdigest()
