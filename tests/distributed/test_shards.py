"""Shards of a model's state: how rows are divided, and checkpoints that every rank writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distributed.shards import Shard, joined
from pipeline.training.checkpointer import Checkpointer
from tests.distributed.test_parallel import STEPS, assert_equal, case
from tests.helpers.damage import flip
from tests.helpers.processes import train, write_shards


@given(rows=st.integers(0, 20), before=st.integers(1, 7), after=st.integers(1, 7))
def test_any_number_of_shards_is_made_of_any_other(rows: int, before: int, after: int) -> None:
    state = {"a": torch.rand(rows, 3), "n": {0: torch.rand(rows), 1: torch.tensor(5.0)}, "of": 2}

    def shard(tensor: Any, number: int, of: int) -> Any:
        if isinstance(tensor, dict):
            return {key: shard(inner, number, of) for key, inner in tensor.items()}
        if not isinstance(tensor, torch.Tensor) or not tensor.dim():
            return tensor
        chunks = tensor.chunk(of)  # how FSDP2 divides rows
        return chunks[number] if number < len(chunks) else tensor[:0]

    shards = [shard(state, number, before) for number in range(before)]
    for number in range(after):
        found, expected = joined(shards, Shard(number, after)), shard(state, number, after)
        assert torch.equal(found["a"], expected["a"])
        assert torch.equal(found["n"][0], expected["n"][0])
        assert (found["n"][1], found["of"]) == (5.0, 2)
        assert Shard(number, after).shape((rows, 3)) == tuple(expected["a"].shape)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def gone_on(folder: Path, tokens: Path, lines: list[str], **settings: Any) -> dict[str, Any]:
    """By one process, from the latest checkpoint."""
    with Checkpointer(folder, notify=lines.append) as checkpoints:
        return train(case(**settings), tokens, checkpoints=checkpoints)


def assert_end_is_equal(found: dict[str, Any], alone: dict[str, Any]) -> None:
    done = STEPS - len(found["losses"])
    rest = {key: alone[key][done:] for key in ("losses", "norms")}
    assert_equal(found, {**alone, **rest})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_writes_its_shard_and_one_process_goes_on(
    tokens: Path, tmp_path: Path, rank: int
) -> None:
    """One rank's disk has no room for the best weights, at first; then a shard is damaged."""
    folder, lines = tmp_path / "checkpoints", list[str]()
    alone = train(case(grad_clip=0.5), tokens)
    best = min(alone["history"], key=lambda row: row["val_loss"])["step"]
    assert 2 < best < STEPS - 3
    shared = case(grad_clip=0.5, processes=2, sharding="full")
    trained = write_shards(shared, tokens, folder, lines.append, full=(rank, best))
    assert_equal(trained, alone)
    (line,) = lines
    assert line.startswith("a checkpoint could not be written (File too large); training goes on")

    last = (STEPS - 2, STEPS - 1)
    assert names(folder) == {
        *(f"checkpoint-{step:08}.json" for step in last),
        *(f"weights-{step:08}-{n}of2.pth" for step in (best, *last) for n in (1, 2)),
        *(f"optimizer-{step:08}-{n}of2.pth" for step in last for n in (1, 2)),
    }
    flip(folder / f"optimizer-{last[1]:08}-2of2.pth")
    found = gone_on(folder, tokens, lines, grad_clip=0.5)
    assert len(found["losses"]) == STEPS - last[0]
    assert f"the checkpoint of step {last[1]} is damaged (optimizer-{last[1]:08}-2of2" in lines[1]
    assert_end_is_equal(found, alone)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_replicas_write_each_shard_once(tokens: Path, tmp_path: Path) -> None:
    folder, lines = tmp_path / "checkpoints", list[str]()
    alone = train(case(), tokens)
    shared = case(processes=4, sharding="full", replicas=2)
    assert_equal(write_shards(shared, tokens, folder, lines.append), alone)
    assert {name for name in names(folder) if "optimizer" in name} == {
        f"optimizer-{step:08}-{n}of2.pth" for step in (STEPS - 2, STEPS - 1) for n in (1, 2)
    }
    again = write_shards(shared, tokens, folder, lines.append)
    assert len(again["losses"]) == 1
    assert_end_is_equal(again, alone)
    assert lines == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_where_ranks_share_no_folder_rank_0_writes_for_all(tokens: Path, tmp_path: Path) -> None:
    folder, lines = tmp_path / "checkpoints", list[str]()
    alone = train(case(), tokens)
    shared = case(processes=2, sharding="full")
    assert_equal(write_shards(shared, tokens, folder, lines.append, blind=True), alone)
    (line,) = lines
    assert line.startswith(f"train.sharding: not every process can use {folder}, so rank 0 gathers")
    assert f"optimizer-{STEPS - 1:08}.pth" in names(folder)
    assert not [name for name in names(folder) if "of2" in name or "shared" in name]
    again = write_shards(shared, tokens, folder, lines.append, blind=True)
    assert len(again["losses"]) == 1
    assert_end_is_equal(again, alone)
    found = write_shards(shared, tokens, folder, lines.append)  # now they see it
    assert len(found["losses"]) == 1
    assert_end_is_equal(found, alone)
