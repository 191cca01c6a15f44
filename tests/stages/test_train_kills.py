"""The real stage, killed with SIGKILL at random moments: the next start ends as if it had not been.

Some kills fall into the writing of a checkpoint on purpose, some runs are killed three times.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.damage import cut, flip
from tests.helpers.real_stage import prepare_tokens, said, stage

PARAMS = """
seed: 5
prepare: {corpus: story.txt}
split: {train_fraction: 0.8}
model: {n_layer: 1, n_head: 2, n_embd: 32, context_length: 32}
train: {epochs: 4, batch_size: 2, eval_every: 4, checkpoint_every: 3, precision: fp32}
"""
WRITTEN = (
    "models/scratch/model.pth",
    "models/scratch/best.pth",
    "models/scratch/optimizer.pth",
    "reports/history.csv",
    "reports/train.json",
    "reports/loss.png",
)
CHANGING = ("system/", "train/tokens_per_second")  # what the clock says is nobody's promise

pytestmark = pytest.mark.slow


def train(folder: Path) -> subprocess.Popen[str]:
    written = ("--model", "models/scratch", "--reports", "reports", "--journal", "journals/train")
    return stage(folder, "train", "--tokens", "data/tokens", *written)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare_tokens(folder, PARAMS)
    return folder


@pytest.fixture(scope="session")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "repository"
    shutil.copytree(prepared, folder)
    said(train(folder))
    return folder


def metrics(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every point that MLflow holds of the one run, by metric."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    run_id = json.loads((folder / "reports/train_run.json").read_text())["run_id"]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert len(client.search_runs([run.info.experiment_id])) == 1
    return {
        key: sorted((p.step, p.value) for p in client.get_metric_history(run_id, key))
        for key in run.data.metrics
        if not key.startswith(CHANGING)
    }


def checkpoints(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(f".lossbook/state/train-*/checkpoints/{pattern}"))


def kill(process: subprocess.Popen[str], folder: Path, chance: random.Random) -> None:
    """Kill the stage at some moment after its first checkpoint, or let it come to its end."""
    into_a_write = chance.random() < 0.5
    while process.poll() is None and not checkpoints(folder, "*.json"):
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 2.5))
    while into_a_write and process.poll() is None and not checkpoints(folder, ".*.part"):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()


def assert_same(folder: Path, undisturbed: Path) -> None:
    """The same bytes, each step journalled once, and nothing left to go on from."""
    for name in WRITTEN:
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert metrics(folder) == metrics(undisturbed)
    assert not list((folder / ".lossbook/state").iterdir())


HARMS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "weights flipped": ("weights", flip),
    "moments gone": ("optimizer", Path.unlink),
    "manifest cut": ("checkpoint", cut),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_newest_checkpoint_changes_no_result(
    prepared: Path, undisturbed: Path, tmp_path: Path, harm: str
) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(prepared, folder)
    process = train(folder)
    while process.poll() is None and len(checkpoints(folder, "checkpoint-*.json")) < 2:
        time.sleep(0.003)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    newest = max(checkpoints(folder, "checkpoint-*.json"))
    part, apply = HARMS[harm]
    apply(
        newest.with_name(newest.name.replace("checkpoint-", f"{part}-")).with_suffix(
            ".json" if part == "checkpoint" else ".pth"
        )
    )
    lines = said(train(folder))
    assert "is damaged (" in lines
    assert "going on from the checkpoint of step" in lines
    assert_same(folder, undisturbed)


@pytest.mark.parametrize("trial", range(30))
def test_a_killed_training_ends_as_an_undisturbed_one(
    prepared: Path, undisturbed: Path, tmp_path: Path, trial: int
) -> None:
    chance = random.Random(trial)
    folder = tmp_path / "repository"
    shutil.copytree(prepared, folder)
    for _ in range(chance.choice((1, 1, 3))):
        process = train(folder)
        kill(process, folder, chance)
    lines = said(train(folder))
    if process.returncode == -signal.SIGKILL:
        assert "going on from the checkpoint of step" in lines
    assert_same(folder, undisturbed)
