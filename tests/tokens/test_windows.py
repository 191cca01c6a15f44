"""Tokens across shards, the windows over them, and folders that are not what they say."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.system import digest_cache
from pipeline.system.checksums import SUMS, write_sums
from pipeline.tokens.tokenizer import END_OF_TEXT, encode
from pipeline.tokens.windows import Tokens, Windows
from tests.helpers.tokens import write_split


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(1, 7), max_size=5), st.data())
def test_reads_across_shards(tmp_path: Path, sizes: list[int], data: st.DataObject) -> None:
    numbers = list(range(sum(sizes)))
    cuts = np.cumsum([0, *sizes])
    shards = [numbers[a:b] for a, b in pairwise(cuts)]
    tokens = Tokens.open(write_split(tmp_path / "train", *shards))
    assert len(tokens) == len(numbers)
    start = data.draw(st.integers(0, len(numbers)))
    stop = data.draw(st.integers(start, len(numbers)))
    read = tokens.read(start, stop)
    assert read.dtype == np.uint16
    assert read.tolist() == numbers[start:stop]


@pytest.mark.parametrize("span", [(-1, 1), (0, 4), (2, 1)])
def test_refuses_to_read_outside(tmp_path: Path, span: tuple[int, int]) -> None:
    with pytest.raises(IndexError):
        Tokens.open(write_split(tmp_path / "train", [1, 2], [3])).read(*span)


def test_what_was_read_is_not_written_to(tmp_path: Path) -> None:
    read = Tokens.open(write_split(tmp_path / "train", list(range(9)))).read(2, 7)
    assert not read.flags.owndata
    assert not read.flags.writeable


def calls_of(name: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The first argument of each call of `os.NAME` from now on."""
    calls: list[Any] = []
    call = getattr(os, name)
    monkeypatch.setattr(os, name, lambda *given: calls.append(given[0]) or call(*given))
    return calls


def test_a_batch_reads_the_shards_that_it_touches_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_split(tmp_path / "train", *np.arange(3000).reshape(1000, 3))
    sums = calls_of("open", monkeypatch)
    windows = Windows.open(folder, 3)
    assert sum(Path(path).name == SUMS for path in sums) == 1
    opened, read = calls_of("open", monkeypatch), calls_of("pread", monkeypatch)
    inputs, targets = windows.batch([998, 0, 500])
    assert inputs.tolist() == [[2994, 2995, 2996], [0, 1, 2], [1500, 1501, 1502]]
    assert targets[:, 2].tolist() == [2997, 3, 1503]
    names = ["00998.bin", "00999.bin", "00000.bin", "00001.bin", "00500.bin", "00501.bin"]
    assert [Path(path).name for path in opened] == names
    assert len(read) == 6
    windows.batch([998, 0, 500])
    assert len(opened) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="/proc lists what is open")
def test_more_shards_than_a_process_may_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tokens.windows.MOST_OPEN", 16)
    windows = Windows.open(write_split(tmp_path / "train", *np.arange(300).reshape(100, 3)), 3)
    before = psutil.Process().num_fds()
    for index in (*range(99), *range(99)):
        assert windows.batch([index])[0].tolist() == [list(range(3 * index, 3 * index + 3))]
    assert psutil.Process().num_fds() - before == 16
    del windows
    assert psutil.Process().num_fds() == before


def test_a_file_put_in_an_open_ones_place_is_not_read(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "train", [1, 2, 3, 4])
    tokens = Tokens.open(folder)
    tokens.read(0, 1)
    (folder / "new").write_bytes(bytes(8))
    (folder / "new").replace(folder / "00000.bin")
    assert tokens.read(0, 4).tolist() == [1, 2, 3, 4]


def test_a_file_put_in_the_place_of_one_that_was_checked_is_refused(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "train", [1, 2, 3, 4])
    tokens = Tokens.open(folder)
    (folder / "new").write_bytes(bytes(8))
    (folder / "new").replace(folder / "00000.bin")
    with pytest.raises(UserError, match=r"00000\.bin: was changed after it was checked; `dvc"):
        tokens.read(0, 4)


def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "train", [1, 2, 3, 4])
    tokens = Tokens.open(folder)
    tokens.read(0, 1)
    os.truncate(folder / "00000.bin", 4)
    with pytest.raises(UserError, match=r"00000\.bin: was cut off while it was read; `dvc check"):
        tokens.read(0, 4)


def test_a_read_of_more_than_one_call_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.tokens.windows.MOST_AT_ONCE", 2)
    tokens = Tokens.open(write_split(tmp_path / "train", [0, 1, 2, 3, 4], [5, 6, 7]))
    assert tokens.read(1, 8).tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_data_set_is_known_by_its_tokens_windows_and_split(tmp_path: Path) -> None:
    """Copies have one digest; another text, split, length or choice of windows another."""
    tokens = list(range(40))

    def known(name: str, numbers: list[int], length: int = 4, most: int | None = None) -> Any:
        windows = Windows.open(write_split(tmp_path / name, numbers), length)
        found = windows.dataset(windows.spread(most))
        return found["name"], found["digest"]

    once = known("one/val", tokens)
    assert known("two/val", tokens) == known("one/val", tokens, most=9) == once
    others = [
        known("three/val", [*tokens[:-1], 7]),
        known("one/train", tokens),
        known("one/val", tokens, length=5),
        known("one/val", tokens, most=5),
    ]
    assert len({digest for _, digest in [once, *others]}) == 5
    assert Windows.open(tmp_path / "one/val", 4).dataset()["profile"]["windows"] == 9


@pytest.mark.parametrize(("tokens", "windows"), [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2)])
def test_counts_whole_windows(tmp_path: Path, tokens: int, windows: int) -> None:
    shards = [list(range(tokens))] if tokens else []
    assert len(Windows(Tokens.open(write_split(tmp_path / "val", *shards)), 4)) == windows


def test_targets_are_inputs_shifted_by_one(tmp_path: Path) -> None:
    windows = Windows.open(write_split(tmp_path / "train", [0, 1, 2], [3, 4, 5, 6, 7, 8]), 4)
    inputs, targets = windows.batch([1, 0])
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert targets.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert inputs.is_contiguous()
    assert targets.is_contiguous()
    with pytest.raises(IndexError):
        windows.batch([2])


def test_counts_the_targets_bytes(tmp_path: Path) -> None:
    tokens = [*encode("naïve 中"), END_OF_TEXT]
    windows = Windows.open(write_split(tmp_path / "val", tokens), len(tokens) - 1)
    first = len(b"na")  # "na" is the first token, which is no target
    assert encode("na") == tokens[:1]
    assert windows.target_bytes([0]) == len("naïve 中".encode()) - first
    assert windows.target_bytes([0, 0]) == 2 * windows.target_bytes([0])


def test_shared_tokens_are_those_of_the_targets(tmp_path: Path) -> None:
    mask = [1, 0, 0, 1, 1, 0, 1, 0, 1]
    folder = write_split(tmp_path / "val", [0, 1, 2], [3, 4, 5, 6, 7, 8], shared=mask)
    windows = Windows.open(folder, 4)
    found = windows.shared(np.array([1, 0]))
    assert found is not None
    assert found.dtype == np.bool_
    assert found.tolist() == [[bool(one) for one in mask[5:9]], [bool(one) for one in mask[1:5]]]
    with pytest.raises(IndexError):
        windows.shared([2])


def test_splits_that_nobody_compared_have_no_shared_tokens(tmp_path: Path) -> None:
    assert Windows.open(write_split(tmp_path / "val", [0, 1, 2]), 2).shared([0]) is None


def test_too_short_for_a_window_says_what_would_help(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "val", [1, 2, 3])
    with pytest.raises(UserError, match=r"val: 3 tokens, .* model.context_length 4, which takes 5"):
        Windows.open(folder, 4)


def test_four_gigabytes_cost_no_memory_and_are_read_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = 1 << 31
    folder = write_split(tmp_path / "train", [0])
    with open(folder / "00000.bin", "r+b") as file:
        file.truncate(2 * tokens)  # sparse: the disk holds nothing either
    meta = json.loads((folder / "meta.json").read_text())
    meta |= {"tokens": tokens, "shards": [{"file": "00000.bin", "tokens": tokens}]}
    (folder / "meta.json").write_text(json.dumps(meta))
    os.utime(folder / "00000.bin", (1e9, 1e9))
    write_sums(folder, {"00000.bin": "a" * 64})
    read: list[Path] = []  # in earnest it takes a minute
    monkeypatch.setattr(digest_cache, "_read", lambda path: read.append(path) or "a" * 64)
    Windows.open(folder, 256)

    before = psutil.Process().memory_info().rss
    windows = Windows.open(folder, 256)
    indices = range(0, len(windows), len(windows) // 64)
    inputs, _ = windows.batch(indices)
    assert inputs.shape == (len(indices), 256)
    assert psutil.Process().memory_info().rss - before < 64 << 20
    assert read == [folder / "00000.bin"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere single pages are mapped")
def test_memory_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    size = 1 << 26  # tokens: 128 MiB, in the page cache once written
    folder = write_split(tmp_path / "train", [0])
    (folder / "00000.bin").write_bytes(bytes(2 * size))
    shards = {"tokens": size, "shards": [{"file": "00000.bin", "tokens": size}]}
    meta = json.loads((folder / "meta.json").read_text()) | shards
    (folder / "meta.json").write_text(json.dumps(meta))
    write_sums(folder)
    windows = Windows.open(folder, 256)
    windows.batch([0])
    before = psutil.Process().memory_info().rss
    for indices in np.random.default_rng(0).integers(0, len(windows), (500, 4)):
        windows.batch(indices)
    assert psutil.Process().memory_info().rss - before < 16 << 20


def flip(path: Path, before: bytes, after: bytes) -> None:
    content = path.read_bytes()
    assert before in content
    path.write_bytes(content.replace(before, after, 1))


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        change(meta)
        (folder / "meta.json").write_text(json.dumps(meta))
        write_sums(folder)  # its content is looked at, too

    return apply


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no meta.json": lambda folder: (folder / "meta.json").unlink(),
    "meta.json is not JSON": lambda folder: (folder / "meta.json").write_text("{"),
    "meta.json is a list": lambda folder: (folder / "meta.json").write_text("[]"),
    "another encoding": edit(lambda meta: meta.update(encoding="cl100k_base")),
    "another dtype": edit(lambda meta: meta.update(dtype="uint32")),
    "no shards": edit(lambda meta: meta.pop("shards")),
    "shards are numbers": edit(lambda meta: meta.update(shards=[3])),
    "a shard elsewhere": edit(lambda meta: meta["shards"][0].update(file="../train/00000.bin")),
    "a shard of less than nothing": edit(lambda meta: meta["shards"][0].update(tokens=-1)),
    "a wrong sum": edit(lambda meta: meta.update(tokens=7)),
    "a shard is missing": lambda folder: (folder / "00001.bin").unlink(),
    "a shard is short": lambda folder: (folder / "00001.bin").write_bytes(b"\0\0\0"),
    "no corpus": edit(lambda meta: meta.pop("corpus_sha256")),
    "another corpus, by one digit": lambda folder: flip(folder / "meta.json", b"cccc", b"cccd"),
    "a number of a million digits": lambda folder: flip(
        folder / "meta.json", b'"tokens": 6', b'"tokens": ' + b"6" * 10**6
    ),
    "another token": lambda folder: flip(folder / "00001.bin", b"\x05", b"\x06"),
    "another digest": lambda folder: (folder / SUMS).write_text(f"{'0' * 64}  meta.json\n"),
    "digests that are none": lambda folder: (folder / SUMS).write_bytes(b"\xff\0" * 99),
    "no digests": lambda folder: (folder / SUMS).unlink(),
    "a folder for a shard": lambda folder: (
        (folder / "00000.bin").unlink(),
        (folder / "00000.bin").mkdir(),
    ),
    "an empty shard": lambda folder: (folder / "00000.bin").write_bytes(b""),
    "a mask elsewhere": edit(lambda meta: meta.update(shared="../val/shared.bin")),
    "a mask that is no name": edit(lambda meta: meta.update(shared=["shared.bin"])),
    "a mask is missing": lambda folder: (folder / "shared.bin").unlink(),
    "a mask is short": lambda folder: (folder / "shared.bin").write_bytes(b"\1"),
    "another mask": lambda folder: (folder / "shared.bin").write_bytes(bytes(6)),
    "a shard is long": lambda folder: (folder / "00000.bin").write_bytes(bytes(100)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    folder = write_split(tmp_path / "train", [1, 2, 3], [4, 5, 6], shared=[0, 1] * 3)
    DAMAGES[damage](folder)
    with pytest.raises(UserError, match=r"train.*`dvc repro") as caught:
        Tokens.open(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_number_that_is_no_token_is_named(tmp_path: Path) -> None:
    windows = Windows.open(write_split(tmp_path / "train", [1, 2, 60000, 4]), 3)
    with pytest.raises(UserError, match="60000"):
        windows.batch([0])
