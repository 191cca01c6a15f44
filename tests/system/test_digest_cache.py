"""Digests that are kept, and those of large files, which show their progress."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.system import digest_cache as digests


def test_a_large_file_tells_how_far_it_is_and_is_read_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digests, "SMALL", 1)
    monkeypatch.setattr(digests, "LARGE", 1000)
    monkeypatch.setattr(digests, "BLOCK", 700)
    path = tmp_path / "large.txt"
    path.write_bytes(b"words " * 500)
    os.utime(path, (1e9, 1e9))
    found = digests.digest_of(path)
    assert found == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "read large.txt: 3,000/3,000 bytes" in capsys.readouterr().err
    assert digests.digest_of(path) == found
    assert capsys.readouterr().err == ""
