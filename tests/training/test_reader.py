"""Batches that a thread reads ahead: the same ones, and the thread ends with who reads them."""

from __future__ import annotations

import threading
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pipeline.errors import UserError
from pipeline.params import Train
from pipeline.tokens.windows import Windows
from pipeline.training.batches import Batches
from pipeline.training.events import Diverged
from pipeline.training.reader import Reader
from tests.helpers.tokens import write_split

CPU = torch.device("cpu")


def threads() -> int:
    return sum(thread.name.startswith("lossbook-reader") for thread in threading.enumerate())


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Of ten steps of two batches of two windows, in shards of a window each."""
    windows = Windows.open(write_split(tmp_path / "train", *([[n] * 8 for n in range(41)])), 8)
    return Reader(windows, Batches(40, Train(gradient_accumulation=2), seed=1), CPU)


def numbers(steps: Any) -> list[list[tuple[list, list]]]:
    return [[(x.tolist(), y.tolist()) for x, y in step] for step in steps]


def test_the_thread_reads_the_same_batches_in_the_same_order(reader: Reader) -> None:
    assert not reader.ahead
    alone = numbers(reader.epoch(3, first=2))
    assert [len(step) for step in alone] == [2] * 8
    reader.ahead = True
    assert numbers(reader.epoch(3, first=2)) == alone
    assert threads() == 0


def test_it_is_one_batch_ahead(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    batch = reader.windows.batch
    monkeypatch.setattr(reader.windows, "batch", lambda one: read.append(one) or batch(one))
    reader.ahead = True
    steps = reader.epoch(0)
    list(next(steps))
    assert threads() == 1
    steps.close()
    del steps
    assert threads() == 0
    assert len(read) == 3


def test_tokens_beyond_memory_are_read_ahead(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = type("Memory", (), {"total": 2 * 41 * 8})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert Reader(reader.windows, reader.batches, CPU).ahead


def test_a_shard_that_is_gone_is_one_line_for_who_trains(reader: Reader) -> None:
    reader.ahead = True
    (reader.windows.tokens.folder / "00007.bin").unlink()
    with pytest.raises(UserError, match=r"00007\.bin: No such file .*; `dvc checkout") as caught:
        numbers(reader.epoch(0))
    assert "\n" not in str(caught.value)
    del caught
    assert threads() == 0


def test_training_ends_its_thread_however_it_ends(make_trainer) -> None:
    alone, _ = make_trainer(max_steps=14)
    alone.run()
    ahead, _ = make_trainer(max_steps=14)
    ahead.reader.ahead = True
    ahead.run()
    assert ahead.history == alone.history
    assert threads() == 0

    stopped, _ = make_trainer(early_stopping=1, eval_every=1, learning_rate=0.5, max_steps=14)
    stopped.reader.ahead = True
    stopped.run()
    assert stopped.step < 14
    assert threads() == 0

    diverged, memory = make_trainer(max_steps=14)
    diverged.reader.ahead = True
    memory.on_step = lambda step: diverged.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(Diverged) as caught:
        diverged.run()
    del caught
    assert threads() == 0


def test_a_resumed_epoch_begins_in_its_middle(reader: Reader) -> None:
    whole = numbers(reader.epoch(1))
    reader.ahead = True
    assert numbers(islice(reader.epoch(1, first=7), 2)) == whole[7:9]
