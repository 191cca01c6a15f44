"""A folder's digests: as `sha256sum` reads them, and checked against each file that is read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.system.checksums import SUMS, check, write_sums
from tests.helpers.damage import flip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    (tmp_path / "one.bin").write_bytes(b"one")
    (tmp_path / "two words.bin").write_bytes(b"two")
    write_sums(tmp_path)
    return tmp_path


def test_sha256sum_reads_them(folder: Path) -> None:
    found = subprocess.run(
        ("sha256sum", "--check", SUMS), cwd=folder, check=True, capture_output=True, text=True
    )
    assert found.stdout == "one.bin: OK\ntwo words.bin: OK\n"


def test_whole_files_pass_and_digests_do_not_name_themselves(folder: Path) -> None:
    before = (folder / SUMS).read_bytes()
    write_sums(folder)
    assert (folder / SUMS).read_bytes() == before
    check(folder, ["one.bin", "two words.bin"], "")


def test_a_known_digest_is_not_computed_again(folder: Path) -> None:
    write_sums(folder, {"one.bin": "a" * 64, "gone.bin": "b" * 64})
    lines = (folder / SUMS).read_text().splitlines()
    assert lines[0] == f"{'a' * 64}  one.bin"
    assert len(lines) == 2


def test_what_differs_is_one_line_with_a_way_out(folder: Path) -> None:
    flip(folder / "one.bin")
    with pytest.raises(UserError, match=r"one\.bin: its SHA-256 is .*…; it was.*; mend it$"):
        check(folder, ["two words.bin", "one.bin"], "mend it")


@pytest.mark.parametrize("name", ["new.bin", "gone.bin", "inner", "pipe.bin"])
def test_what_is_not_named_or_not_there(folder: Path, name: str) -> None:
    (folder / "new.bin").write_bytes(b"new")
    os.mkfifo(folder / "pipe.bin")
    with pytest.raises(UserError, match=f"{name}.*; mend it$"):
        check(folder, [name], "mend it")


def test_without_digests_nothing_is_read(folder: Path) -> None:
    (folder / SUMS).unlink()
    with pytest.raises(UserError, match=f"{SUMS}: No such file or directory; mend it"):
        check(folder, ["two words.bin", "one.bin"], "mend it")
