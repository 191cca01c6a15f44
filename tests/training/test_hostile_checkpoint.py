"""Checkpoints that somebody has changed, their checksums with them: named, and an older one used.

Every checksum is right again after each change, so that only what is read can give it away.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training import checkpoint
from pipeline.training.checkpoint import CheckpointFolder, Stored
from pipeline.training.checkpointer import Checkpointer
from tests.helpers.trainers import checkpoint_of

SETTINGS = {"epochs": 2, "batch_size": 2, "eval_every": 3, "learning_rate": 3e-2}
NEWEST, BEFORE = 10, 5

Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def folder(make_trainer, made: Path, tmp_path: Path) -> Path:
    """The checkpoints of steps 5 and 10; a neighbour's weights lie beside the folder."""
    if not (made / "checkpoints").exists():
        checkpoints = Checkpointer(made / "checkpoints", notify=print)
        trainer, memory = make_trainer(checkpoints=checkpoints, checkpoint_every=5, **SETTINGS)

        def stop(step) -> None:
            checkpoints.wait()
            if step.step == 12:
                raise KeyboardInterrupt

        memory.on_step = stop
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    shutil.copytree(made / "checkpoints", tmp_path / "state" / "checkpoints")
    (tmp_path / "state" / "outside.pth").write_bytes(b"a neighbour's")
    return tmp_path / "state" / "checkpoints"


def manifest(folder: Path) -> Path:
    return folder / f"checkpoint-{NEWEST:08}.json"


def body_of(folder: Path) -> dict[str, Any]:
    return json.loads(manifest(folder).read_text())["body"]


def edited(change: Callable[[dict[str, Any]], object]) -> Change:
    """A change of the newest manifest."""

    def apply(folder: Path) -> None:
        body = body_of(folder)
        change(body)
        manifest(folder).write_text(checkpoint._signed(body))

    return apply


def saved(part: str, change: Callable[[Any], Any]) -> Change:
    """A change of what one of the newest files holds."""

    def apply(folder: Path) -> None:
        path = folder / body_of(folder)["files"][part]
        torch.save(change(torch.load(path, weights_only=True)), path)
        check = checkpoint._check_of(path, path.stat().st_size)
        edited(lambda body: body["checks"].update({path.name: check}))(folder)

    return apply


def replaced(part: str, make: Callable[[Path], object]) -> Change:
    """Something else in the place of one of the newest files."""

    def apply(folder: Path) -> None:
        path = folder / body_of(folder)["files"][part]
        path.rename(folder.parent / "moved")
        make(path)

    return apply


def first_moment(tensor: torch.Tensor) -> Callable[[Any], Any]:
    def change(state: Any) -> Any:
        state["state"][0]["exp_avg"] = tensor
        return state

    return change


def weight(change: Callable[[torch.Tensor], Any]) -> Callable[[Any], Any]:
    return lambda state: {**state, "wte.weight": change(state["wte.weight"])}


CHANGES: dict[str, Change] = {
    "weights elsewhere": edited(lambda b: b["files"].update(weights="../outside.pth")),
    "a checksum of a file elsewhere": edited(lambda b: b["checks"].update({"../../x": [1, 2]})),
    "weights of no name": edited(lambda b: b["files"].update(weights=3)),
    "another step's weights": edited(lambda b: b["files"].update(weights=b["files"]["best"])),
    "shards that are not there": edited(lambda b: b.update(shards=2)),
    "a huge number of shards": edited(lambda b: b.update(shards=10**30)),
    "no shards": edited(lambda b: b.update(shards=0)),
    "no files": edited(lambda b: b.pop("files")),
    "a huge step": edited(lambda b: b.update(step=10**300)),
    "a step in words": edited(lambda b: b.update(step="ten")),
    "no record": edited(lambda b: b.pop("record")),
    "a record of text": edited(lambda b: b.update(record="all went well")),
    "no history": edited(lambda b: b["record"].update(history=[])),
    "a history of numbers": edited(lambda b: b["record"].update(history=[1, 2])),
    "a history from behind": edited(lambda b: b["record"]["history"].reverse()),
    "a loss in words": edited(lambda b: b["record"]["history"][0].update(val_loss="low")),
    "losses that are none": edited(lambda b: b["record"].update(losses=[[]])),
    "a body of text": lambda f: manifest(f).write_text(checkpoint._signed("text")),  # type: ignore[arg-type]
    "a manifest of a list": lambda f: manifest(f).write_text("[]\n"),
    "a deep manifest": lambda f: manifest(f).write_text("[" * 100_000),
    "a long number": lambda f: manifest(f).write_text('{"body": ' + "9" * 10_000 + "}"),
    "no text": lambda f: manifest(f).write_bytes(b"\xff\xfe\0"),
    "a folder for a manifest": lambda f: (manifest(f).unlink(), manifest(f).mkdir()),
    "a manifest that leads in circles": lambda f: (
        manifest(f).unlink(),
        manifest(f).symlink_to(manifest(f)),
    ),
    "a pipe for weights": replaced("weights", os.mkfifo),
    "a link to weights": replaced("weights", lambda path: path.symlink_to("../moved")),
    "a link to no end": replaced("weights", lambda path: path.symlink_to("/dev/zero")),
    "a folder for moments": replaced("optimizer", lambda path: (path / "in").mkdir(parents=True)),
    "weights of text": saved("weights", lambda state: "weights"),
    "a list of weights": saved("weights", lambda state: list(state.values())),
    "a tensor too few": saved("weights", lambda s: dict(list(s.items())[1:])),
    "a tensor too many": saved("weights", lambda s: {**s, "\x1b[31m": torch.ones(1)}),
    "a misshapen tensor": saved("weights", weight(lambda tensor: tensor[:3])),
    "doubles": saved("weights", weight(torch.Tensor.double)),
    "one number for all": saved("weights", weight(lambda t: torch.ones(1, 1).expand(t.shape))),
    "a number for a tensor": saved("weights", weight(lambda tensor: 3.0)),
    "best weights of text": saved("best", lambda state: "best"),
    "no moments": saved("optimizer", lambda state: {}),
    "moments of nothing": saved("optimizer", lambda state: {**state, "state": {}}),
    "a moment of one number": saved("optimizer", first_moment(torch.ones(1))),
    "a moment of whole numbers": saved("optimizer", first_moment(torch.ones(64, 16, dtype=int))),
    "a sparse moment": saved("optimizer", first_moment(torch.eye(64, 16).to_sparse())),
    "a moment on no device": saved("optimizer", first_moment(torch.ones(64, 16, device="meta"))),
    "moments of a parameter in words": saved(
        "optimizer", lambda s: {**s, "state": {**s["state"], 0: "x"}}
    ),
    "no zip": lambda f: (f / f"optimizer-{NEWEST:08}.pth").write_bytes(b"x"),
}


def look(folder: Path, make_trainer) -> tuple[Stored | None, list[str], Any]:
    lines: list[str] = []
    checkpoints = Checkpointer(folder, notify=lines.append)
    trainer, _ = make_trainer(checkpoints=checkpoints, checkpoint_every=1, **SETTINGS)
    found = checkpoints.latest(trainer.check)
    if found is not None:
        trainer.restore(found)
    return found, lines, trainer


def go_on(trainer: Any) -> None:
    """Train to the end, checkpoints and all."""
    trainer.run()
    trainer.checkpoints.wait()
    assert trainer.observer.samples == ["epoch 1", "epoch 2"]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_named_and_the_one_before_is_used(
    folder: Path, make_trainer, change: str
) -> None:
    CHANGES[change](folder)
    found, (line,), _ = look(folder, make_trainer)
    assert found is not None
    assert found.step == BEFORE
    assert line.startswith(f"the checkpoint of step {NEWEST} is damaged (")
    assert line.isprintable()
    assert len(line) < 400
    assert (folder.parent / "outside.pth").read_bytes() == b"a neighbour's"


def test_hyperparameters_are_those_of_the_settings(folder: Path, make_trainer) -> None:
    """Moments are the checkpoint's; what decides how they are used is not."""

    def spoil(state: Any) -> Any:
        state["param_groups"][0].update(weight_decay=9.0, betas="many", params=[77])
        return state

    saved("optimizer", spoil)(folder)
    found, lines, trainer = look(folder, make_trainer)
    assert lines == []
    assert found is not None
    assert found.step == NEWEST
    assert trainer.optimizer.param_groups[0]["betas"] == (0.9, 0.999)


def test_only_files_with_a_checkpoints_name_are_removed(folder: Path, make_trainer) -> None:
    kept = ("notes.txt", "mine.pth", "weights-best.pth", ".mine.part")
    for name in kept:
        (folder / name).write_text("mine")
    for name in ("checkpoint-000000000010.json", f"checkpoint-{'9' * 30}.json"):
        (folder / name).write_text("{}")
    (folder / "weights-00000099.pth" / "inner").mkdir(parents=True)
    _, _, trainer = look(folder, make_trainer)
    go_on(trainer)
    names = {path.name for path in folder.iterdir()}
    assert names >= set(kept)
    assert "weights-00000099.pth" not in names
    assert names.isdisjoint({f"weights-{NEWEST:08}.pth", f"checkpoint-{NEWEST:08}.json"})


@pytest.mark.parametrize("kind", ["link", "file", "dangling"])
def test_what_stands_in_the_folders_place_makes_way(folder: Path, make_trainer, kind: str) -> None:
    theirs = folder.rename(folder.parent / "theirs")
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    if kind == "file":
        folder.write_text("no folder")
    else:
        folder.symlink_to(theirs if kind == "link" else theirs / "nothing")
    found, lines, trainer = look(folder, make_trainer)
    assert (found, lines) == (None, [])
    go_on(trainer)
    assert not folder.is_symlink()
    assert list(folder.glob("checkpoint-*.json"))
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_where_no_file_can_be_opened_none_is_removed(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    store = CheckpointFolder(folder)
    found = store.read_latest(print)
    assert found is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 8, hard))
        with suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            CheckpointFolder(folder).read_latest(print)
        os.close(held.pop())  # as many as listing a folder takes
        with pytest.raises(OSError, match="Too many open files"):
            store.write(checkpoint_of(found, step=11), before_commit=lambda: held.append(os.dup(0)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.items() <= after.items()
