"""Files that are whole or absent: everything is written aside, synced and renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

import psutil
from pydantic_core import from_json

from pipeline.errors import UserError
from pipeline.numbers import to_json
from pipeline.system.text import quoted

MOST_BYTES = 2**28  # of a file that is read whole: reports, notes, settings
MOST_UNPACKED = 100  # bytes in a packed file per byte of it: text comes to 3 to 20
ANY_UNPACKED = 2**26  # bytes that any packed file may hold
HOST = platform.node()


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends well.

    The file gets the mode that the umask gives, whatever the block writes it with. A block that
    raises leaves `path` as it was and no temporary file behind; a process that is killed leaves
    one, which `remove_left` removes.

    Raises:
        OSError: the disk is full, or fails; its `filename` is `path`.
    """
    aside = _beside(path, "part")
    with _named(aside, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.touch()
            mode = aside.stat().st_mode
            yield aside
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            _set_mode(aside, mode)
            os.replace(aside, path)
        finally:
            with suppress(OSError):  # a folder or a name that cannot be
                aside.unlink()


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends well, it takes the place of `path`.

    Its files get the mode that the umask gives. A block that raises leaves `path` as it was. What
    a killed process left aside is removed.

    Raises:
        OSError: the disk is full, or fails; its `filename` is in `path`. Or `path` is something
            else than a folder, which stays.
    """
    aside, replaced = _beside(path, "part"), _beside(path, "old")
    with _named(aside, path):
        if path.exists() and not path.is_dir():  # a file, or a pipe, which would not let go
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left(path)
        aside.mkdir()
        try:
            yield aside
            for inner in aside.rglob("*"):
                if inner.is_file() and not inner.is_symlink():
                    _set_mode(inner, aside.stat().st_mode & 0o666)
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


@contextmanager
def _named(aside: Path, path: Path) -> Iterator[None]:
    """Let errors of writing name `path`, which people know, and not what is aside."""
    try:
        yield
    except OSError as error:
        if isinstance(error, shutil.Error):  # it has a list of what went wrong, and no number
            error.strerror = str(error.args[0][0][2] if error.args[0] else error)
        elif error.errno is None:  # not the system's: a network library's
            raise
        name = aside if error.filename is None else error.filename
        error.filename = str(name).replace(str(aside), str(path))
        raise


def _set_mode(path: Path, mode: int) -> None:
    """Undo what a temporary file of some library is: readable by its owner alone."""
    if stat.S_IMODE(path.stat().st_mode) != stat.S_IMODE(mode):
        path.chmod(stat.S_IMODE(mode))


def remove_left(path: Path) -> None:
    """Remove what processes of this machine that are gone left beside `path`."""
    beside = f".{path.name}."
    for left in path.parent.iterdir():
        owner, _, end = left.name.removeprefix(beside).rpartition(".")
        process, _, host = owner.partition("@")
        if (
            not left.name.startswith(beside)
            or end not in ("part", "old")
            or not process.isdecimal()
        ):
            continue
        if host in ("", HOST) and not psutil.pid_exists(int(process)):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _beside(path: Path, end: str) -> Path:
    """A name that no other process uses, on this machine or one that shares the folder."""
    return path.with_name(f".{path.name}.{os.getpid()}@{HOST}.{end}")


def write_text(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON; NaN and infinities as strings (`pipeline.numbers`)."""
    text = json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path, remedy: str = "`dvc repro -f` rewrites it") -> Any:
    """Read JSON that another stage, or another program, has written.

    Args:
        remedy: what a user can do about a file that is not JSON.

    Raises:
        UserError: the file is missing, is no regular file, is too large or is not JSON.
    """
    try:
        raw = read_bounded(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` writes it") from None
    return parse_json(raw, str(path), remedy)


def parse_json(raw: str | bytes, where: str, remedy: str = "") -> Any:
    """What JSON text comes to; `where` names it in errors.

    Raises:
        UserError: it is not JSON, is nested too deep or has a number of thousands of digits.
    """
    try:
        return from_json(raw)
    except ValueError as error:
        reason = f"{where}: not valid JSON ({error})"
    raise UserError(reason + (f"; {remedy}" if remedy else ""))


def read_bounded(path: Path, limit: int = MOST_BYTES) -> bytes:
    """A regular file's bytes, `limit` of them at most.

    Raises:
        FileNotFoundError: there is none.
        UserError: it cannot be read, is a pipe or a device, or is larger.
    """
    try:
        with open_regular(path) as file:
            raw = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    if len(raw) > limit:
        raise UserError(f"{path}: larger than {limit // 2**10:,} KiB")
    return raw


def open_regular(path: Path | str) -> BufferedReader:
    """Open a regular file for its bytes.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe, which might hang, or a device, which
            might never end.
    """
    # A pipe that nobody writes to would hang the opening itself.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(number, "rb")


def most_unpacked(size: int) -> int:
    """The bytes that a packed file of `size` bytes may hold; what holds more is no text."""
    return max(ANY_UNPACKED, MOST_UNPACKED * size)


def given_path(given: str, where: str) -> Path:
    """The path that a user gave, `~` resolved; `where` is the setting.

    Raises:
        UserError: it can be no path: it names nobody's home, is too long, or holds a NUL.
    """
    try:
        path = Path(given).expanduser()
        path.exists()
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{where}: {quoted(given)} is not a path ({error})") from None
    except OSError as error:
        raise UserError(f"{where}: {quoted(given)}: {error.strerror}") from None
    return path


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as 64 hex digits, read in blocks."""
    return digest_of(path, "sha256")


def digest_of(path: Path, algorithm: str) -> str:
    """A file's digest in hexadecimal digits, by an algorithm that hashlib knows by that name.

    Raises:
        OSError: the file is missing or no regular file, or the disk fails.
    """
    with open_regular(path) as file:
        digest = partial(hashlib.new, algorithm, usedforsecurity=False)
        return hashlib.file_digest(file, digest).hexdigest()
