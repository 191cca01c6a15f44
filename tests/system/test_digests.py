"""Digests taken beside other work are those of the bytes, in their order."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.system.digests import Digests, digests_of
from pipeline.system.direct_io import BLOCK


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK + 5])
def test_of_a_file(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    digests = digests_of(tmp_path / "file", "sha256", "md5")
    assert digests["sha256"] == hashlib.sha256(data).hexdigest()
    assert digests["md5"] == hashlib.md5(data).hexdigest()


def test_a_block_has_been_taken_in_when_the_other_work_fails() -> None:
    blocks = [os.urandom(1 << 20) for _ in range(3)]
    with Digests("sha256") as digests:
        for block in blocks:
            taken = bytearray(block)
            with pytest.raises(OSError, match="full"), digests.taking(memoryview(taken)):
                raise OSError("full")
            taken[:] = bytes(len(taken))  # nobody reads it any more
    assert digests["sha256"] == hashlib.sha256(b"".join(blocks)).hexdigest()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digests_of(tmp_path / "none", "sha256")
