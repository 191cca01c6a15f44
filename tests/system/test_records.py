"""Files that other programs may have written: one line for whatever is wrong."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.system import files
from pipeline.system.records import Record, SealedRecord


class Example(Record):
    name: str
    count: int = 0


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        Example.read(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    return message


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    Example(name="é", count=3).write(tmp_path / "a.json")
    assert Example.read(tmp_path / "a.json") == Example(name="é", count=3)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "recursion limit"),
        (b'{"name": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[]", "valid dictionary"),
        (b"null", "valid dictionary"),
        (b"{}", "name: field required"),
        (b'{"name": 3}', "name: "),
        (b'{"name": "\\ud800"}', "not valid JSON"),
        (b'{"name": "x", "count": 1e400}', "count: "),
        (b'{"name": "x", "count": "' + b"y" * 10_000 + b'"}', "count: "),
    ],
    ids=range(12),
)
def test_a_wrong_file_is_named_in_a_line(tmp_path: Path, raw: bytes, words: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    assert words in refusal(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    assert "not a regular file" in refusal(tmp_path / "pipe")
    assert "not a regular file" in refusal(tmp_path / "zero")
    assert "irectory" in refusal(tmp_path) or "regular" in refusal(tmp_path)
    assert "symbolic links" in refusal(tmp_path / "self")
    assert "no such file" in refusal(tmp_path / "missing")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(" " * 101)
    with pytest.raises(UserError, match="larger than"):
        files.read_bounded(tmp_path / "a.json", limit=100)


def test_text_from_elsewhere_is_named_as_its_source() -> None:
    assert Example.parse(b'{"name": "x"}', "a commit").name == "x"
    with pytest.raises(UserError, match=r"^a commit: name: field required$"):
        Example.parse("{}", "a commit")


class Measured(SealedRecord):
    loss: float
    parts: dict[str, float]


def test_a_changed_digit_of_a_sealed_record_is_seen(tmp_path: Path) -> None:
    path, measured = tmp_path / "a.json", Measured(loss=6.125, parts={"é": 0.1, "b": math.inf})
    measured.write(path)
    assert Measured.read(path) == measured
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text)))
    assert Measured.read(path) == measured, "in another layout"
    path.write_text(text.replace("6.125", "6.126"))
    with pytest.raises(UserError, match=r"a\.json: it was changed after it was written"):
        Measured.read(path)


def test_a_record_of_another_program_has_no_seal() -> None:
    assert Measured.parse('{"loss": 1, "parts": {}}', "x").loss == 1
