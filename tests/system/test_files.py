"""Folders and files that are whole or absent, and their digests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.system.files import digest_of, folder_aside, write_text, written_aside


def test_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with folder_aside(tmp_path / "out") as aside:
        (aside / "new").write_text("new")
        assert (tmp_path / "out" / "old").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_makes_the_folders_above(tmp_path: Path) -> None:
    with folder_aside(tmp_path / "a" / "b"):
        pass
    assert (tmp_path / "a" / "b").is_dir()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_keeps_what_was_there_when_the_block_fails(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")

    def fail() -> None:
        with folder_aside(tmp_path / "out") as aside:
            (aside / "new").write_text("new")
            raise error

    with pytest.raises(error):
        fail()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.system.files import digest_of, folder_aside

with folder_aside(Path(sys.argv[1])) as aside:
    (aside / "half").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sweeps_what_a_killed_process_left(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 1
    with folder_aside(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_left_overs_of_other_names_stay(tmp_path: Path) -> None:
    """`*` is a name, not every name."""
    (tmp_path / ".mine.99999999.old").mkdir()
    with folder_aside(tmp_path / "*"):
        pass
    assert (tmp_path / ".mine.99999999.old").exists()


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_private_temporary_file_becomes_as_public_as_others(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with folder_aside(tmp_path / "folder") as aside:
            os.close(os.open(aside / "file", os.O_CREAT, 0o600))
        with written_aside(tmp_path / "file") as aside:
            aside.unlink()
            os.close(os.open(aside, os.O_CREAT, 0o600))
    finally:
        os.umask(before)
    for path in (tmp_path / "folder" / "file", tmp_path / "file"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_errors_name_what_people_know(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x", tmp_path / ("x" * 250)):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            write_text(path, "text")
        assert Path(str(caught.value.filename)) in (path, path.parent)
    with pytest.raises(OSError, match="No space left") as caught, folder_aside(tmp_path / "out"):
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")])
    assert caught.value.filename == str(tmp_path / "out")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 5])
def test_digests_are_those_of_the_bytes(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    assert digest_of(tmp_path / "file", "sha256") == hashlib.sha256(data).hexdigest()
    assert digest_of(tmp_path / "file", "md5") == hashlib.md5(data).hexdigest()


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch])
def test_what_is_no_folder_stays(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "out")
    with pytest.raises(NotADirectoryError, match="out"), folder_aside(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
