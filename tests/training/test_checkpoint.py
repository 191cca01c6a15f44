"""Checkpoints: going on is as if nothing had happened; damage and full disks are survived."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from pipeline.model.runtime import Runtime
from pipeline.model.saved import save_whole
from pipeline.training.checkpoint import Cancelled, CheckpointFolder
from pipeline.training.checkpointer import Checkpointer
from pipeline.training.loop import Trainer
from tests.helpers.damage import cut, flip
from tests.helpers.processes import Waiting
from tests.helpers.trainers import Memory, checkpoint_of

STEPS = 20
# checkpoints fall on evaluations, between them, and on the end of an epoch (10 steps)
SETTINGS = {"epochs": 2, "batch_size": 2, "eval_every": 3, "learning_rate": 3e-2}


class Killed(Exception):
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture(scope="module")
def made() -> list[tuple[Trainer, Memory]]:
    """The uninterrupted training, once there is one."""
    return []


@pytest.fixture
def whole(make_trainer, made: list[tuple[Trainer, Memory]]) -> tuple[Trainer, Memory]:
    """An uninterrupted training, to compare with."""
    if not made:
        trainer, memory = make_trainer(**SETTINGS)
        trainer.run()
        assert trainer.step == STEPS
        made.append((trainer, memory))
    return made[0]


@pytest.fixture
def train(make_trainer, folder: Path):
    """Train from the latest checkpoint, until killed at a step or to the end."""

    def go(
        kill_at: int | None = None, every: int = 1, runtime: Runtime | None = None, **more: object
    ):
        warnings: list[str] = []
        given = {"runtime": runtime} if runtime else {}
        with Waiting(folder, notify=warnings.append) as checkpoints:
            trainer, memory = make_trainer(
                checkpoints=checkpoints, checkpoint_every=every, **given, **(SETTINGS | more)
            )
            if (found := checkpoints.latest(trainer.check)) is not None:
                trainer.restore(found)
            first = trainer.step
            on_step = memory.on_step

            def kill(step) -> None:
                on_step(step)
                if step.step == kill_at:
                    raise Killed

            memory.on_step = kill
            try:
                trainer.run()
            except Killed:
                assert kill_at
        return trainer, memory, first, warnings

    return go


def saved(trainer, path: Path) -> bytes:
    save_whole(path, trainer.optimizer.state_dict())
    return path.read_bytes()


def assert_same(found, expected) -> None:
    (trainer, memory), (other, remembered) = found, expected
    for name, tensor in other.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], tensor), name
    for name, tensor in other.best_weights.tensors.items():
        assert torch.equal(trainer.best_weights.tensors[name], tensor), name
    with TemporaryDirectory() as folder:
        path = Path(folder) / "optimizer.pth"
        assert saved(trainer, path) == saved(other, path)
    assert trainer.ema_val_loss == other.ema_val_loss
    assert (trainer.history, trainer.best) == (other.history, other.best)
    assert memory.samples == remembered.samples


@pytest.mark.parametrize("kill_at", range(2, STEPS + 1))
def test_going_on_after_any_step_is_as_if_nothing_had_happened(
    train, whole, folder: Path, kill_at: int
) -> None:
    train(kill_at, every=kill_at - 1)
    trainer, memory, first, warnings = train(every=STEPS)
    assert first == kill_at - 1
    assert memory.steps == [] or memory.steps[0].step == kill_at
    assert warnings == []
    assert_same((trainer, memory), whole)


def test_a_rare_checkpoint_and_many_kills(train, whole) -> None:
    firsts = [train(kill_at, every=4)[2] for kill_at in (2, 6, 7, 13, 18)]
    assert firsts == [0, 0, 4, 4, 12]
    trainer, memory, first, _ = train()
    assert first == 16
    assert_same((trainer, memory), whole)


def test_bf16_goes_on_with_its_working_copy(train, make_trainer) -> None:
    bf16 = Runtime(torch.device("cpu"), bf16=True)
    expected = make_trainer(runtime=bf16, **SETTINGS)
    expected[0].run()
    train(9, every=4, runtime=bf16)
    trainer, memory, first, _ = train(every=STEPS, runtime=bf16)
    assert first == 8
    assert_same((trainer, memory), expected)


@pytest.mark.parametrize("bf16", [False, True])
def test_muon_and_averaged_weights_go_on_too(train, make_trainer, bf16: bool) -> None:
    runtime = Runtime(torch.device("cpu"), bf16=bf16)
    settings = {"optimizer": "muon", "ema_decay": 0.8, "learning_rate": 3e-3}
    expected = make_trainer(runtime=runtime, **(SETTINGS | settings))
    expected[0].run()
    train(9, every=4, runtime=runtime, **settings)
    trainer, memory, first, warnings = train(every=STEPS, runtime=runtime, **settings)
    assert (first, warnings) == (8, [])
    assert_same((trainer, memory), expected)
    for name, tensor in expected[0].last_average.items():
        assert torch.equal(trainer.last_average[name], tensor), name


@pytest.mark.parametrize("other", [{}, {"optimizer": "muon"}, {"ema_decay": 0.5}])
def test_another_optimizers_state_is_none_of_this_training(train, folder: Path, other) -> None:
    train(4, every=3, optimizer="muon", ema_decay=0.5)
    _, _, first, (line,) = train(every=STEPS, **other)
    assert first == 0
    assert line.startswith("the checkpoint of step 3 is damaged (")


def test_two_checkpoints_are_kept_and_weights_are_written_once(train, folder: Path) -> None:
    trainer, *_ = train(18, every=5)
    best = {
        min((e for e in trainer.history if e.step <= step), key=lambda e: e.val_loss).step
        for step in (10, 15)
    }
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint-00000010.json",
        "checkpoint-00000015.json",
        "optimizer-00000010.pth",
        "optimizer-00000015.pth",
        *(f"weights-{step:08}.pth" for step in {9, 10, 15} | best),  # 9: the last good of step 10
    }


def test_no_checkpoint_after_the_last_step(train, folder: Path) -> None:
    train(every=10)
    assert [path.name for path in folder.glob("*.json")] == ["checkpoint-00000010.json"]


@pytest.mark.parametrize("harm", [cut, flip, Path.unlink])
@pytest.mark.parametrize("name", ["weights", "optimizer", "checkpoint"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_used(
    train, whole, folder: Path, harm: Callable[[Path], None], name: str
) -> None:
    train(12, every=5)
    harm(next(folder.glob(f"{name}-00000010.*")))
    trainer, memory, first, warnings = train(every=STEPS)
    assert first == 5
    reported = [line for line in warnings if "the checkpoint of step 10 is damaged" in line]
    assert len(reported) == (0 if (harm, name) == (Path.unlink, "checkpoint") else 1)
    assert_same((trainer, memory), whole)


def test_any_flipped_bit_of_the_manifest_is_found(train, whole, folder: Path) -> None:
    train(12, every=5)
    manifest = folder / "checkpoint-00000010.json"
    content = manifest.read_bytes()
    for place in range(0, len(content), 41):
        damaged = bytearray(content)
        damaged[place] ^= 1
        manifest.write_bytes(damaged)
        found = CheckpointFolder(folder).read_latest(lambda line: None)
        assert found is not None
        assert found.step == 5, place
    assert not manifest.exists()


def test_where_all_are_damaged_training_starts_anew(train, whole, folder: Path) -> None:
    train(12, every=5)
    for path in folder.glob("optimizer-*"):
        flip(path)
    trainer, memory, first, warnings = train(every=STEPS)
    assert first == 0
    assert len(warnings) == 2
    assert_same((trainer, memory), whole)


def test_what_a_kill_left_aside_is_swept(train, whole, folder: Path) -> None:
    train(4, every=3)
    for owner in ("99", "99@elsewhere"):
        (folder / f".weights-00000004-1of2.pth.{owner}.part").write_bytes(b"half")
    (folder / "weights-00000004.pth").write_bytes(b"written, but no manifest names it")
    trainer, memory, *_ = train(every=10)
    assert_same((trainer, memory), whole)
    assert not list(folder.glob(".*"))


@contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """Writing more fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_costs_a_warning_and_no_checkpoint(train, whole, folder: Path) -> None:
    train(8, every=7)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with largest_file(20_000):  # less than the weights take
        _, _, first, warnings = train(14, every=2)
    assert first == 7
    (line,) = warnings  # once, though three checkpoints failed
    assert line.startswith("a checkpoint could not be written (File too large); training goes on")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    trainer, memory, first, _ = train(every=STEPS)
    assert first == 7
    assert_same((trainer, memory), whole)


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A megabyte of disk at the checkpoints' folder."""
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    if sys.platform != "linux":
        pytest.skip("tmpfs is Linux's")
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs takes root")
    yield folder
    subprocess.run(("umount", str(folder)), check=True)


def test_a_disk_without_a_byte_left_is_survived(
    train, whole, small_disk: Path, monkeypatch
) -> None:
    monkeypatch.setattr("pipeline.training.checkpoint.RESERVE", 0)  # into the wall, not before it
    monkeypatch.setattr("pipeline.training.checkpoint._bytes", lambda value: 0)
    train(8, every=7)
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    other = small_disk / "somebody-elses"
    other.write_bytes(bytes(shutil.disk_usage(small_disk).free - 30_000))
    _, _, first, warnings = train(14, every=2)
    assert first == 7
    (line,) = warnings
    assert line.startswith("a checkpoint could not be written (No space left on device)")
    other.unlink()
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before
    trainer, memory, first, _ = train(every=STEPS)
    assert first == 7
    assert_same((trainer, memory), whole)


def test_the_last_megabytes_of_a_disk_are_left_alone(train, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("pipeline.training.checkpoint.RESERVE", 2**60)
    _, _, _, warnings = train(every=9)
    assert "No space left on device" in warnings[0]
    assert not list(folder.iterdir())


def test_training_does_not_wait_for_a_slow_disk(make_trainer, folder: Path, whole) -> None:
    slow = threading.Event()
    checkpoints = Checkpointer(folder, notify=print, before_commit=slow.wait)
    trainer, memory = make_trainer(checkpoints=checkpoints, checkpoint_every=1, **SETTINGS)
    trainer.run()  # would never end
    assert_same((trainer, memory), whole)
    slow.set()
    checkpoints.wait()
    assert [path.name for path in folder.glob("*.json")] == ["checkpoint-00000001.json"]


def test_a_checkpoint_that_nobody_wants_is_given_up(train, folder: Path) -> None:
    train(8, every=5)
    store = CheckpointFolder(folder)
    checkpoint = store.read_latest(print)
    assert checkpoint is not None
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(Cancelled):
        store.write(checkpoint_of(checkpoint, step=6), is_cancelled=lambda: True)
    assert {path.name for path in folder.iterdir()} == before


def test_a_mistake_of_ours_is_no_warning(make_trainer, folder: Path) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    checkpoints = Checkpointer(folder, notify=print, before_commit=broken)
    trainer, _ = make_trainer(checkpoints=checkpoints, checkpoint_every=1, **SETTINGS)
    with pytest.raises(ZeroDivisionError), checkpoints:
        trainer.run()
