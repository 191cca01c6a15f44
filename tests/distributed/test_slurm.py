"""What `srun` says to its tasks, in torchrun's names."""

from __future__ import annotations

import os

import pytest

from pipeline.distributed.slurm import as_torchrun
from pipeline.distributed.world import World
from pipeline.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NODELIST": "node[07-08,12],gpu3",
    "SLURM_STEP_NUM_TASKS": "20",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2),4",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "17",
    "SLURM_LOCALID": "1",
}


def test_a_task_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(SLURM))
    assert World.from_slurm() == World(17, 20, 1, 4) == World.from_torchrun()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("node07", "19713")


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("n1,n2", "n1"),
        ("rack[2-3]n[01,05-06],n1", "rack2n01"),
        ("a-[10-12]-ib,b", "a-10-ib"),
        ("127.0.0.[1-2]", "127.0.0.1"),
    ],
)
def test_the_ranks_meet_on_the_first_node(nodes: str, first: str) -> None:
    assert as_torchrun({**SLURM, "SLURM_STEP_NODELIST": nodes})["MASTER_ADDR"] == first


def test_where_the_ranks_meet_may_be_said() -> None:
    said = {"MASTER_ADDR": "node07-ib", "MASTER_PORT": "29500"}
    assert as_torchrun({**SLURM, **said}).items() >= said.items()


def test_a_shell_in_an_allocation_is_no_rank() -> None:
    assert as_torchrun({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert as_torchrun({k: v for k, v in SLURM.items() if "NUM_TASKS" not in k}) == {}


@pytest.mark.parametrize("name", SLURM)
@pytest.mark.parametrize("value", [None, "", "x["])
def test_what_srun_does_not_say_is_named(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {k: v for k, v in {**SLURM, name: value}.items() if v is not None}
    monkeypatch.setattr(os, "environ", said)
    if "SLURM_STEP_NUM_TASKS" not in said:
        assert World.from_slurm() is None
        return
    with pytest.raises(UserError, match=r"SLURM_STEP_NUM_TASKS|RANK"):
        World.from_slurm()
