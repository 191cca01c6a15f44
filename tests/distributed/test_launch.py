"""The processes that rank 0 starts: found out when they die, and gone when it is done."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.distributed.launch import launch
from pipeline.distributed.rendezvous import RankLost
from pipeline.distributed.world import World
from pipeline.errors import UserError
from pipeline.training.worker import run_worker
from tests.helpers.processes import CPU, die

TWO = World.on_one_machine(2)


def started_here() -> list[psutil.Process]:
    """Ranks that this process has started and that still live."""
    children = psutil.Process().children()
    return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


def test_a_rank_that_is_killed_is_named() -> None:
    threads = torch.get_num_threads()

    def lead() -> None:
        with launch(TWO, CPU, die):
            while True:
                TWO.total(1.0)

    with pytest.raises(RankLost, match=r"^train: rank 1 of 2 was killed by SIGKILL; all 2 proc"):
        lead()
    assert not torch.distributed.is_initialized()
    assert not started_here()
    assert torch.get_num_threads() == threads
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_a_rank_that_never_joins_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RankLost, match=r"rank 1 of 2: .*params\.yaml: No such file"),
        launch(TWO, CPU, run_worker, tmp_path / "params.yaml", tmp_path),
    ):
        pass
    assert not started_here()


def test_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert World.from_torchrun() is None
    said = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert World.from_torchrun() == World(5, 8, 1, 4)
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(UserError, match="LOCAL_RANK"):
        World.from_torchrun()


def test_devices_that_several_cannot_share() -> None:
    assert TWO.device("cpu") == "cpu"
    with pytest.raises(UserError, match=r"train\.device: cuda:1 is one device"):
        TWO.device("cuda:1")
    gpus = torch.cuda.device_count()
    many = World.on_one_machine(gpus + 1 if gpus else 2)
    with pytest.raises(UserError, match=r"train\.processes: .* has \d+ CUDA GPUs"):
        many.device("cuda")
