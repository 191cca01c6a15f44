"""The whole pipeline through real DVC and real MLflow, in a repository of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoints import TINY as TINY_GPT2
from checkpoints import write_checkpoint
from hostile import Hostile

from pipeline.gpt2.release import FILES

ROOT = Path(__file__).parents[1]
TINY = {
    "corpus": "story.txt",
    "n_layer": "1",
    "n_head": "2",
    "n_embd": "16",
    "context_length": "32",
    "epochs": "1",
    "batch_size": "4",
    "max_new_tokens": "8",
    "sizes": "[124M]",
    # nobody listens there: the size is unavailable at once, with or without a network
    "mirror": "http://127.0.0.1:9",
}


class Repository:
    """A clone of what Lossbook ships, with a tiny model and a story of 2,500 characters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("pipeline", "stages"):
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(ROOT / name, folder)
        (folder / ".gitignore").write_text(
            "/mlflow.db*\n/mlartifacts/\n/.lossbook/\n__pycache__/\n"
        )
        story = (ROOT / "pipeline/data/texts/what-seemed-likely.txt").read_text()
        (folder / "story.txt").write_text(story[:2500])
        for key, value in TINY.items():
            self.set(key, value)
        self.run("git", "init", "--quiet")
        self.run("git", "config", "user.email", "tests@example.org")
        self.run("git", "config", "user.name", "tests")
        self.run("dvc", "init", "--quiet")
        self.run("dvc", "config", "core.autostage", "true")
        self.commit()

    def set(self, key: str, value: str) -> None:
        path = self.folder / "params.yaml"
        text, count = re.subn(rf"(?m)^(\s+{key}:).*$", rf"\1 {value}", path.read_text(), count=1)
        assert count == 1, key
        path.write_text(text)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))},
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "DVC_NO_ANALYTICS": "1",
                "LOSSBOOK_CACHE": str(self.folder.parent / "cache"),
                "OMP_NUM_THREADS": "1",
            },
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "state")

    def repro(self) -> list[str]:
        """Run what has changed; the stages that ran, those that look outside left out."""
        output = self.run("dvc", "repro").stdout
        ran = re.findall(r"Running stage '([\w@]+)'", output)
        return [s for s in ran if s != "identify" and not s.startswith("fetch_gpt2")]

    def read(self, name: str) -> dict:
        return json.loads((self.folder / "reports" / name).read_text())


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("pipeline") / "lossbook"
    folder.mkdir()
    repository = Repository(folder)
    assert repository.repro() == [
        "prepare",
        "split",
        "train",
        "evaluate",
        "sample",
        "baseline@124M",
        "compare",
    ]
    repository.commit()
    return repository


def test_every_stage_leaves_its_report(repository: Repository) -> None:
    reports = {path.name for path in (repository.folder / "reports").iterdir()}
    assert reports >= {
        "corpus.json",
        "split.json",
        "history.csv",
        "loss.png",
        "train.json",
        "train_run.json",
        "evaluate.json",
        "samples.json",
        "samples.md",
        "comparison.csv",
        "comparison.md",
        "comparison.html",
        "comparison.png",
        "comparison.json",
    }
    assert repository.read("gpt2/124M.json")["status"] == "unavailable"
    table = (repository.folder / "reports/comparison.csv").read_text()
    assert "unavailable" in table.splitlines()[-1]


def test_nothing_changed_runs_nothing(repository: Repository) -> None:
    assert repository.repro() == []
    assert repository.run("git", "status", "--porcelain").stdout == ""


def test_one_run_with_its_children(repository: Repository) -> None:
    rows = json.loads(repository.run("lossbook", "runs", "--json").stdout)
    text = json.dumps(rows)
    for stage in ("train", "evaluate", "sample", "compare"):
        assert f'"{stage}"' in text
    assert repository.read("train_run.json")["run_id"] in text


def test_a_temperature_runs_sample_alone(repository: Repository) -> None:
    repository.set("temperature", "0.5")
    assert repository.repro() == ["sample"]
    repository.set("temperature", "1.4")
    assert repository.repro() == []  # restored from the cache


def test_a_learning_rate_trains_and_going_back_restores(repository: Repository) -> None:
    before = (repository.folder / "models/scratch/model.pth").read_bytes()
    record = repository.read("train_run.json")
    repository.set("learning_rate", "1e-3")
    assert repository.repro() == ["train", "evaluate", "sample", "compare"]
    assert (repository.folder / "models/scratch/model.pth").read_bytes() != before
    repository.set("learning_rate", "4.0e-4")
    assert repository.repro() == []
    assert (repository.folder / "models/scratch/model.pth").read_bytes() == before
    assert repository.read("train_run.json") == record


def test_renaming_the_experiment_runs_nothing(repository: Repository) -> None:
    repository.set("experiment", "elsewhere")
    assert repository.repro() == []
    repository.set("experiment", "lossbook")


def test_a_wrong_value_ends_in_a_line_that_names_it(repository: Repository) -> None:
    done = repository.run("dvc", "exp", "run", "-S", "train.learning_rate=abc", check=False)
    assert done.returncode != 0
    lines = (done.stdout + done.stderr).splitlines()
    assert "train.learning_rate: input should be a valid number, not 'abc'" in lines
    assert "Traceback" not in done.stdout + done.stderr
    repository.run("git", "checkout", "params.yaml")


def test_a_queue_of_two_workers_records_both(repository: Repository) -> None:
    swept = "train.learning_rate=1e-4,2e-4"
    repository.run("dvc", "exp", "run", "--queue", "-S", swept)
    repository.run("dvc", "queue", "start", "--jobs", "2")
    for _ in range(240):
        status = repository.run("dvc", "queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            break
        time.sleep(0.5)
    assert status.count("Success") == 2, status
    shown = repository.run("lossbook", "runs", "--json").stdout
    assert "lr=1e-04" in shown
    assert "lr=2e-04" in shown


def test_a_gpt2_that_comes_late_runs_its_baseline_and_compare(
    repository: Repository, tmp_path: Path
) -> None:
    weights = write_checkpoint(tmp_path, TINY_GPT2)
    with Hostile.running() as server:
        port = server.server_address[1]  # free again once this one is gone
    repository.set("mirror", f"http://127.0.0.1:{port}")
    repository.repro()
    assert repository.read("baselines/124M.json")["status"] == "unavailable"

    with Hostile.running(port) as server:
        server.files = {f"/124M/{name}": (weights / name).read_bytes() for name in FILES}
        assert repository.repro() == ["baseline@124M", "compare"]
    found = repository.read("baselines/124M.json")
    assert (found["status"], found["parameters"]) == ("measured", TINY_GPT2.parameters)
    row = (repository.folder / "reports/comparison.csv").read_text().splitlines()[-1]
    assert f",{TINY_GPT2.parameters}," in row
    assert "unavailable" not in row
    assert repository.repro() == []  # the server is gone, the weights are not
