"""The real stage with two processes: killed, terminated, gone on with by one, under torchrun."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.helpers.real_stage import prepare_tokens, said, stage, start

PARAMS = """
seed: 5
prepare: {corpus: story.txt}
split: {train_fraction: 0.8}
model: {n_layer: 1, n_head: 2, n_embd: 16, context_length: 16, dropout: 0.0}
train:
  max_steps: 60
  epochs: 1
  batch_size: 2
  eval_every: 20
  checkpoint_every: 5
  precision: fp32
  processes: 2
  sharding: none
"""
TRAIN = ("--tokens", "data/tokens", "--model", "m", "--reports", "r", "--journal", "r/journal")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare_tokens(folder, PARAMS)
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "repository"))


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "params.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def losses(folder: Path) -> list[float]:
    with open(folder / "r/history.csv", newline="") as file:
        return [float(row["val_loss"]) for row in csv.DictReader(file)]


def ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The ranks that the stage's process has started."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if any("spawn_main" in part for part in child.cmdline())]


def when_written(folder: Path, process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The started ranks, when there is a checkpoint to go on from."""
    while not list(folder.glob(".lossbook/state/train-*/checkpoints/*.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return ranks(process)


def status(folder: Path) -> tuple[str, str]:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("lossbook").experiment_id])
    return run.info.status, run.data.tags.get("error", "")


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    folder = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("one") / "repository"))
    change(folder, "processes: 2", "processes: 1")
    said(stage(folder, "train", *TRAIN))
    return losses(folder)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_killed_rank_fails_the_run_and_one_process_goes_on(
    folder: Path, undisturbed: list[float], sharding: str
) -> None:
    change(folder, "sharding: none", f"sharding: {sharding}")
    process = stage(folder, "train", *TRAIN)
    (rank,) = when_written(folder, process)
    rank.kill()
    last = said(process, status=1).splitlines()[-1]
    assert last.startswith("Error: train: rank 1 of 2 was killed by SIGKILL; all 2 processes end")
    assert status(folder) == ("FAILED", "RankLost: " + last.removeprefix("Error: "))
    change(folder, "processes: 2", "processes: 1")
    assert "going on from the checkpoint of step" in said(stage(folder, "train", *TRAIN))
    assert status(folder) == ("FINISHED", "")
    assert losses(folder) == pytest.approx(undisturbed, abs=1e-4)


def test_two_processes_go_on_with_what_one_began(folder: Path, undisturbed: list[float]) -> None:
    change(folder, "processes: 2", "processes: 1")
    process = stage(folder, "train", *TRAIN)
    when_written(folder, process)
    process.kill()
    process.communicate()
    change(folder, "processes: 1", "processes: 2")
    change(folder, "sharding: none", "sharding: full")
    assert "going on from the checkpoint of step" in said(stage(folder, "train", *TRAIN))
    assert losses(folder) == pytest.approx(undisturbed, abs=1e-4)


def test_two_processes_start_from_a_model_and_its_moments(prepared: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        folder = Path(shutil.copytree(prepared, tmp_path / str(processes)))
        change(folder, "processes: 2", "processes: 1")
        change(folder, "max_steps: 60", "max_steps: 20")
        said(stage(folder, "train", *TRAIN))
        shutil.copytree(folder / "m", folder / "begun")
        change(folder, "processes: 1", f"processes: {processes}")
        change(folder, "sharding: none", "sharding: full")
        change(folder, "train:", "train:\n  init_from: begun\n  init_optimizer: restored")
        said(stage(folder, "train", *TRAIN))
        found.append(losses(folder))
    one, two = found
    assert two == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize(
    ("end", "run"),
    [
        (psutil.Process.kill, "RUNNING"),
        (psutil.Process.terminate, "KILLED"),
    ],
)
def test_the_ranks_end_with_the_stage(
    folder: Path, end: Callable[[psutil.Process], None], run: str
) -> None:
    process = stage(folder, "train", *TRAIN)
    (rank,) = when_written(folder, process)
    end(psutil.Process(process.pid))
    process.communicate()
    psutil.wait_procs([rank], timeout=20)
    assert not rank.is_running()
    if run == "KILLED":  # the store of one that was killed may know nothing yet
        assert status(folder) == (run, "")


def torchrun(folder: Path) -> subprocess.Popen[str]:
    script = str(Path(sys.executable).with_name("torchrun"))
    return start(
        folder, script, "--standalone", "--nproc-per-node", "2", "-m", "stages.train", *TRAIN
    )


def test_under_torchrun_the_first_alone_writes(folder: Path, undisturbed: list[float]) -> None:
    change(folder, "processes: 2", "processes: 1")  # torchrun's count goes before it
    lines = said(torchrun(folder))
    assert lines.count("step 60:") == 1
    assert losses(folder) == pytest.approx(undisturbed, abs=1e-4)
    assert status(folder) == ("FINISHED", "")


def test_a_rank_killed_under_torchrun_fails_the_run(folder: Path) -> None:
    process = torchrun(folder)
    when_written(folder, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    (rank,) = [w for w in workers if w.is_running() and w.environ().get("RANK") == "1"]
    rank.send_signal(signal.SIGKILL)
    assert f"rank 1 of 2 (process {rank.pid}) is gone" in said(process, status=1)
    found, error = status(folder)
    assert found == "FAILED"
    assert error.startswith("RankLost: train: rank 1 of 2")
