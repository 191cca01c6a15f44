"""DVC's stage starts the training's processes by torchrun or Slurm, on two nodes of this machine.

The nodes are folders of their own. Where a launcher reaches one node alone, the test starts the
other's processes, with the command that `docs/scale.md` has for that.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.helpers.commands_in_docs import all_commands
from tests.helpers.real_stage import ROOT, prepare_tokens, said, stage, start
from tests.helpers.repository import Repository
from tests.stages.test_train_processes import (
    PARAMS,
    TRAIN,
    change,
    losses,
    status,
    when_written,
)

SRUN = shlex.join([sys.executable, str(ROOT / "tests/helpers/srun.py")])
NODES = "torchrun --nnodes 2 --nproc-per-node 1 --node-rank {} --master-addr 127.0.0.1"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare_tokens(folder, PARAMS.replace("processes: 2", "processes: 1"))
    return folder


@pytest.fixture(scope="module")
def undisturbed(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    folder = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("one") / "repository"))
    said(stage(folder, "train", *TRAIN))
    return losses(folder)


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "node0"))


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    running = psutil.process_iter(["cwd"])
    assert not [p for p in running if (p.info["cwd"] or "").startswith(str(tmp_path))]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def torchrun(rank: int, port: int) -> str:
    return NODES.format(rank) + f" --master-port {port}"


def other_node(folder: Path, launcher: str) -> subprocess.Popen[str]:
    """What a user types there."""
    program, *words = shlex.split(launcher)
    program = str(Path(sys.executable).with_name(program))
    return start(folder, program, *words, "-m", "stages.train", *TRAIN)


def set_launcher(folder: Path, launcher: str) -> None:
    change(folder, "sharding: none", f"sharding: none\n  launcher: {launcher}")


def test_slurm_starts_them(folder: Path, undisturbed: list[float]) -> None:
    set_launcher(folder, f"{SRUN} --nodes 2 --ntasks-per-node 1")
    lines = said(stage(folder, "train", *TRAIN))
    assert lines.count("step 60:") == 1
    assert losses(folder) == pytest.approx(undisturbed, abs=1e-4)
    assert status(folder) == ("FINISHED", "")


def test_a_task_of_slurms_that_dies_fails_the_stage(folder: Path) -> None:
    set_launcher(folder, f"{SRUN} --nodes 2 --ntasks-per-node 1")
    process = stage(folder, "train", *TRAIN)
    when_written(folder, process)
    tasks = psutil.Process(process.pid).children(recursive=True)
    (task,) = [t for t in tasks if t.environ().get("SLURM_PROCID") == "1"]
    task.kill()
    *_, last = lines = said(process, status=137).splitlines()
    assert last.startswith("Error: train.launcher: ")
    assert last.endswith("ended with status 137; the lines above say why")
    assert any("rank 1 of 2" in line and "is gone" in line for line in lines)
    assert status(folder)[0] == "FAILED"


def test_two_nodes_go_on_after_the_stage_was_killed(
    folder: Path, tmp_path: Path, undisturbed: list[float]
) -> None:
    port = free_port()
    other = Path(shutil.copytree(folder, tmp_path / "node1"))
    set_launcher(folder, torchrun(0, port))
    there, process = other_node(other, torchrun(1, port)), stage(folder, "train", *TRAIN)
    when_written(folder, process)
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(started, timeout=60)[1]
    said(there, status=1)
    assert not (folder / "r/history.csv").exists()
    there, process = other_node(other, torchrun(1, port)), stage(folder, "train", *TRAIN)
    assert "going on from the checkpoint of step" in said(process)
    said(there)
    assert losses(folder) == pytest.approx(undisturbed, abs=1e-4)
    assert status(folder) == ("FINISHED", "")


def test_rank_0_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    other = Path(shutil.copytree(folder, tmp_path / "node1"))
    set_launcher(folder, torchrun(1, port))
    there, process = other_node(other, torchrun(0, port)), stage(folder, "train", *TRAIN)
    lines = said(process, status=1)
    assert "Error: train.launcher: rank 0, which writes the outputs, is not on the" in lines
    assert lines.splitlines()[-1].startswith("Error: train.launcher: 'torchrun' ended with status")
    said(there, status=1)
    assert not (other / "m").exists()


def test_dvc_repro_is_all_that_is_typed_on_rank_0s_machine(tmp_path: Path) -> None:
    """The other machine has what Git and `dvc pull data/tokens` bring, and the page's command."""
    page = [words for words in all_commands(ROOT / "docs/scale.md") if words[0] == "torchrun"]
    ((_, *words),) = page
    port = str(free_port())
    values = {"--nproc-per-node": "1", "--master-addr": "127.0.0.1", "--master-port": port}
    words = [values.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    launched = words[: words.index("-m")]
    launched[launched.index("--node-rank") + 1] = "0"

    (tmp_path / "node0").mkdir()
    repository = Repository(tmp_path / "node0")
    repository.set("train.launcher", shlex.join(["torchrun", *launched]))
    repository.repro("split")
    other = Path(shutil.copytree(repository.folder, tmp_path / "node1"))
    there = start(other, str(Path(sys.executable).with_name("torchrun")), *words)
    assert repository.repro("train") == ["train"]
    said(there)
    assert repository.repro("train") == []  # DVC knows that it ran
    assert (repository.folder / "models/scratch/model.pth").exists()
    assert not (other / "models").exists()
    assert not (other / ".lossbook").exists()
