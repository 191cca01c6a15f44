"""Files written and read past the page cache hold what was written, whatever its sizes."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.system.direct_io import ALIGNMENT, BLOCK, UncachedFile, read_blocks

SIZES = [0, 1, ALIGNMENT - 1, ALIGNMENT, ALIGNMENT + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 17]


def written(path: Path, parts: list[bytes]) -> bytes:
    with UncachedFile(path) as file:
        for part in parts:
            assert file.write(memoryview(part)) == len(part)
    return path.read_bytes()


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from(SIZES), max_size=4))
def test_what_is_written_can_be_read(tmp_path: Path, sizes: list[int]) -> None:
    parts = [os.urandom(size) for size in sizes]
    assert written(tmp_path / "file", parts) == b"".join(parts)


@pytest.mark.parametrize("size", [*SIZES, 3 * BLOCK])
def test_what_is_in_a_file_is_read(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    read = [bytes(block) for block in read_blocks(tmp_path / "file")]
    assert b"".join(read) == data
    assert all(len(block) == BLOCK for block in read[:-1])


def test_reading_may_end_early(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * BLOCK))
    blocks = read_blocks(tmp_path / "file")
    block = next(blocks)
    assert len(block) == BLOCK
    blocks.close()
    with pytest.raises(ValueError, match="released"):
        len(block)
    with pytest.raises(FileNotFoundError):
        next(read_blocks(tmp_path / "none"))


def test_each_block_holds_while_it_is_written(tmp_path: Path) -> None:
    data, seen = os.urandom(2 * BLOCK + 5), []

    @contextmanager
    def beside(block: memoryview) -> Iterator[None]:
        first = bytes(block)
        yield
        assert block == first
        seen.append(first)

    with UncachedFile(tmp_path / "file", beside) as file:
        file.write(data[:7])
        file.write(data[7:])
    assert seen == [data[:BLOCK], data[BLOCK : 2 * BLOCK], data[2 * BLOCK :]]
    assert (tmp_path / "file").read_bytes() == data


def test_a_longer_file_is_emptied_first(tmp_path: Path) -> None:
    written(tmp_path / "file", [b"a" * (BLOCK + 5)])
    assert written(tmp_path / "file", [b"b"]) == b"b"


def test_a_file_system_that_refuses_is_written_as_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes the flag and fails the writes, as some network file systems do."""
    write = os.write

    def refuse(descriptor: int, data: memoryview) -> int:
        import fcntl

        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", refuse)
    data = os.urandom(BLOCK + 100)
    assert written(tmp_path / "file", [data]) == data


def test_a_file_system_that_refuses_is_read_as_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(FileIO):
        def readinto(self, buffer: memoryview) -> int:
            import fcntl

            if fcntl.fcntl(self.fileno(), fcntl.F_GETFL) & os.O_DIRECT:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return super().readinto(buffer)

    monkeypatch.setattr("pipeline.system.direct_io.FileIO", Refusing)
    data = os.urandom(BLOCK + 100)
    (tmp_path / "file").write_bytes(data)
    assert b"".join(bytes(block) for block in read_blocks(tmp_path / "file")) == data


def test_a_limit_in_the_middle_is_an_error(tmp_path: Path) -> None:
    """In a process of its own, for the limit holds for all of its files."""
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.system.direct_io import BLOCK, UncachedFile\n"
        "with UncachedFile(Path(sys.argv[1])) as file: file.write(bytes(3 * BLOCK))"
    )
    limit = BLOCK + 1000  # not a multiple of a disk's block
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "File too large" in done.stderr
