"""params.yaml as it should not be: a line or some, at once, and in little memory."""

from __future__ import annotations

import os
import time
import tracemalloc
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.params import load_params
from tests.helpers.hostile_yaml import ACCEPTED, REFUSED


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_params(path)
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_a_line_at_once(tmp_path: Path, name: str) -> None:
    content, part = REFUSED[name]
    path = written(tmp_path, content)
    began = time.process_time()
    said = refusal(path)
    assert time.process_time() - began < 5  # a second on a machine that is at rest
    assert part in said
    assert len(said.splitlines()) <= 22
    assert max(map(len, said.splitlines())) < 500 + len(str(tmp_path))
    assert said.replace("\n", "").isprintable()


def test_it_takes_little_memory(tmp_path: Path) -> None:
    for name in ("aliases of aliases", "merged aliases of aliases", "a megabyte"):
        path = written(tmp_path, REFUSED[name][0])
        tracemalloc.start()
        refusal(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 20e6, name


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_unusual_and_right(tmp_path: Path, name: str) -> None:
    assert load_params(written(tmp_path, ACCEPTED[name])).seed == 15


def test_what_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert refusal(path).endswith("No such file or directory")
    path.mkdir()
    assert refusal(path).endswith("Is a directory") or refusal(path).endswith("not a regular file")
    path.rmdir()
    os.mkfifo(path)
    assert refusal(path).endswith("not a regular file")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refusal(path).endswith("not a regular file")
